"""Closed clients: each call raises this library's own error."""

from __future__ import annotations

import pytest

from keyauthority import AsyncClient, Client
from keyauthority.errors import FailedPrecondition
from tests.client.fake_authority import FakeAuthority
from tests.client.records import PROJECT_ID, TOKEN


def test_closed_client_makes_no_call(authority: FakeAuthority) -> None:
    """Neither a unary call nor a stream."""
    client = Client(authority.address)
    client.close()
    client.close()  # again does no harm
    for call in (lambda: client.verify(TOKEN), lambda: client.watch_changes(PROJECT_ID)):
        with pytest.raises(FailedPrecondition, match="the client is closed"):
            call()


async def test_closed_async_client_makes_no_call(authority: FakeAuthority) -> None:
    """Neither a unary call nor a stream."""
    client = AsyncClient(authority.address)
    await client.close()
    await client.close()
    with pytest.raises(FailedPrecondition, match="the client is closed"):
        await client.verify(TOKEN)
    with pytest.raises(FailedPrecondition, match="the client is closed"):
        await anext(client.watch_changes(PROJECT_ID))
