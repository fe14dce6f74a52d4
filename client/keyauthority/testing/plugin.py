"""The pytest fixture: `pytest_plugins = ["keyauthority.testing.plugin"]` in the top conftest.py."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from keyauthority.testing.process import Authority, authority


@pytest.fixture(scope="session")
def key_authority() -> Iterator[Authority]:
    """One authority for all tests of a run. Make a project for each test that counts or lists."""
    with authority() as running:
        yield running
