"""Pytest plugin: load `keyauthority.testing.plugin` in the top-level conftest.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from keyauthority.testing.process import Authority, authority


@pytest.fixture(scope="session")
def key_authority() -> Iterator[Authority]:
    """One authority per test session. Create a project in each test that counts or lists."""
    with authority() as running:
        yield running
