"""Tests that share an expensive fixture run in one pytest process."""

from __future__ import annotations

import os

import pytest

several = pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="one process only")


@several
@pytest.mark.xdist_group("named")
def test_named_group_of_a_test_takes_precedence(request: pytest.FixtureRequest) -> None:
    """pytest-xdist reads it from the test id, which some pytest versions protect."""
    assert request.node.nodeid.endswith("@named")


@several
@pytest.mark.parametrize("engine", ["postgres"])
def test_tests_of_an_engine_form_a_group(request: pytest.FixtureRequest, engine: str) -> None:
    """The suite's hook marks them before pytest-xdist reads the marks."""
    assert request.node.nodeid.endswith(f"@{engine}")
