"""An authority that the tests of a folder share, and a client of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from keyauthority import Client
from keyauthority.testing import Authority
from keyauthority.testing.plugin import key_authority

__all__ = ["client", "key_authority"]


@pytest.fixture(scope="session")
def client(key_authority: Authority) -> Iterator[Client]:
    """A client that may do everything."""
    with key_authority.client() as opened:
        yield opened
