"""Tests that share what is started once run in one process of pytest's, when there are several."""

from __future__ import annotations

import os

import pytest

several = pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="one process only")


@several
@pytest.mark.xdist_group("named")
def test_group_that_a_test_names_is_its_own(request: pytest.FixtureRequest) -> None:
    """pytest-xdist goes by the end of a test's id, which not every pytest lets it set."""
    assert request.node.nodeid.endswith("@named")


@several
@pytest.mark.parametrize("engine", ["postgres"])
def test_tests_of_an_engine_are_a_group(request: pytest.FixtureRequest, engine: str) -> None:
    """The suite's own hook has marked them before pytest-xdist looks."""
    assert request.node.nodeid.endswith(f"@{engine}")
