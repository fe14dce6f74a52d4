"""The fake authority, both clients behind one way to call them, and the command line."""

from __future__ import annotations

import asyncio
import inspect
import io
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import pytest

from keyauthority import AsyncClient, AsyncListing, Client, Listing
from keyauthority.cli.app import run
from tests.client.fake_authority import FakeAuthority, fake_authority


class Call(Protocol):
    """Calls a method of a client by its name; `client` holds the client's own arguments."""

    def __call__(
        self, method: str, *args: Any, client: dict[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        """Return the result, or raise the error, of the call."""


@pytest.fixture
def authority() -> Iterator[FakeAuthority]:
    """A fake authority that serves."""
    with fake_authority() as fake:
        yield fake


@pytest.fixture(params=["Client", "AsyncClient"])
def call(request: pytest.FixtureRequest, authority: FakeAuthority) -> Call:
    """Calls the fake authority through either client; a listing is taken whole."""

    def sync_call(
        method: str, *args: Any, client: dict[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        with Client(**{"address": authority.address, **(client or {})}) as caller:
            result = getattr(caller, method)(*args, **kwargs)
            return list(result) if isinstance(result, Listing) else result

    async def awaited(method: str, args: Any, client: dict[str, Any], kwargs: Any) -> Any:
        async with AsyncClient(**{"address": authority.address, **client}) as caller:
            result = getattr(caller, method)(*args, **kwargs)
            if isinstance(result, AsyncListing):
                return [item async for item in result]
            return await result if inspect.isawaitable(result) else result

    def async_call(
        method: str, *args: Any, client: dict[str, Any] | None = None, **kwargs: Any
    ) -> Any:
        return asyncio.run(awaited(method, args, client or {}, kwargs))

    return sync_call if request.param == "Client" else async_call


class Ended(NamedTuple):
    """The result of a command."""

    code: int
    out: str
    err: str


Command = Callable[..., Ended]


@pytest.fixture
def command(
    authority: FakeAuthority, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs `keyauthority` against the fake authority, with `stdin` on its standard input.

    None for one that is closed.
    """
    monkeypatch.setenv("KEYAUTHORITY_ADDRESS", authority.address)
    monkeypatch.delenv("KEYAUTHORITY_OPERATOR_KEY", raising=False)
    monkeypatch.delenv("KEYAUTHORITY_OPERATOR_KEY_FILE", raising=False)

    def ended(*arguments: str, stdin: bytes | None = b"") -> Ended:
        given = None if stdin is None else io.TextIOWrapper(io.BytesIO(stdin))
        monkeypatch.setattr(sys, "stdin", given)
        code = run(arguments)
        return Ended(code, *capsys.readouterr())

    return ended
