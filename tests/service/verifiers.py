"""Both verifiers behind one face, so that one test is a test of either."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from typing import Any, Final, Protocol, TypeVar

from keyauthority import (
    AsyncClient,
    AsyncVerifier,
    Client,
    Unavailable,
    UsageRow,
    Verdict,
    Verifier,
)
from tests.service.processes import WAIT_SECONDS, wait_until

T = TypeVar("T")

PATIENT: Final[dict[str, Any]] = {
    "max_staleness": timedelta(seconds=WAIT_SECONDS),
    "timeout": float(WAIT_SECONDS),
}
"""Settings of a verifier that a slow machine does not affect."""


class Verifies(Protocol):
    """A verifier, and the calls of its authority."""

    asked: list[str]
    """The calls that it has made, by name."""
    lost: list[None]
    """One for each answer to a report that is lost on its way."""

    @property
    def revision(self) -> int:
        """The newest change that it has received."""
        ...

    def verify(self, secret_key: str, **question: Any) -> Verdict:
        """Verify."""
        ...


Opens = Callable[..., AbstractContextManager[Verifies]]
"""Opens a verifier at an address, with an operator key and the verifier's own arguments."""


class _Asking(Client):
    """A client that records its calls."""

    asked: list[str]
    lost: list[None]

    def verify(self, *args: Any, **kwargs: Any) -> Verdict:
        """Verify."""
        self.asked.append("verify")
        return super().verify(*args, **kwargs)

    def report_usage(self, rows: Any, **kwargs: Any) -> None:
        """Report."""
        self.asked.append(f"report_usage {kwargs['batch_id']}")
        super().report_usage(rows, **kwargs)
        _lose(self.lost)


class _AsyncAsking(AsyncClient):
    """The same, awaited."""

    asked: list[str]
    lost: list[None]

    async def verify(self, *args: Any, **kwargs: Any) -> Verdict:
        """Verify."""
        self.asked.append("verify")
        return await super().verify(*args, **kwargs)

    async def report_usage(self, rows: Any, **kwargs: Any) -> None:
        """Report."""
        self.asked.append(f"report_usage {kwargs['batch_id']}")
        await super().report_usage(rows, **kwargs)
        _lose(self.lost)


def _lose(lost: list[None]) -> None:
    if lost:
        lost.pop()
        raise Unavailable("the answer is lost")


class _Threads:
    def __init__(self, verifier: Verifier, client: _Asking) -> None:
        self.asked, self.lost = client.asked, client.lost
        self._verifier = verifier

    @property
    def revision(self) -> int:
        return self._verifier.revision

    def verify(self, secret_key: str, **question: Any) -> Verdict:
        return self._verifier.verify(secret_key, **question)


class _Tasks:
    def __init__(
        self, verifier: AsyncVerifier, client: _AsyncAsking, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.asked, self.lost = client.asked, client.lost
        self._verifier = verifier
        self._loop = loop

    @property
    def revision(self) -> int:
        return self._verifier.revision

    def verify(self, secret_key: str, **question: Any) -> Verdict:
        return _done(self._loop, self._verifier.verify(secret_key, **question))


@contextmanager
def threads(address: str, operator_key: str, **arguments: Any) -> Iterator[Verifies]:
    """Open a `Verifier`."""
    with _Asking(address, operator_key=operator_key) as client:
        client.asked, client.lost = [], []
        with Verifier(client, **PATIENT | arguments) as verifier:
            yield _Threads(verifier, client)


@contextmanager
def tasks(address: str, operator_key: str, **arguments: Any) -> Iterator[Verifies]:
    """Open an `AsyncVerifier` in a loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        client = _done(loop, _made(lambda: _AsyncAsking(address, operator_key=operator_key)))
        client.asked, client.lost = [], []
        try:
            verifier = _done(loop, _made(lambda: AsyncVerifier(client, **PATIENT | arguments)))
            _done(loop, verifier.__aenter__())
            try:
                yield _Tasks(verifier, client, loop)
            finally:
                _done(loop, verifier.close())
        finally:
            _done(loop, client.close())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _made(make: Callable[[], T]) -> T:
    return make()


def _done(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(work, loop).result(WAIT_SECONDS)


VERIFIERS: Final[dict[str, Opens]] = {"threads": threads, "tasks": tasks}


def told(verifier: Verifies, revision: int) -> None:
    """Wait until a verifier knows a change."""
    wait_until(lambda: verifier.revision >= revision)


def counted(client: Client, access_key: str) -> list[UsageRow]:
    """The counts of a key."""
    return list(client.get_usage(access_key=access_key))
