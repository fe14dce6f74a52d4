"""A real authority that all these tests share, and keys of each test's own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from keyauthority import Client, SecretKey
from keyauthority.testing import Authority
from keyauthority.testing.plugin import key_authority

__all__ = ["key_authority"]


@pytest.fixture
def client(key_authority: Authority) -> Iterator[Client]:
    """A client that may do everything."""
    with key_authority.client() as opened:
        yield opened


@pytest.fixture
def project_id(client: Client) -> str:
    """The id of a project of the test's own."""
    return client.create_project("Shop").project_id


@pytest.fixture
def reader(client: Client, project_id: str) -> SecretKey:
    """A key that may read orders."""
    return client.create_key(
        project_id,
        mode="test",
        kind="restricted",
        permissions=["orders:read"],
    ).secret_key
