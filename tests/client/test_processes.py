"""Clients and verifiers after forks, in several event loops and with patched threads."""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from datetime import timedelta
from types import SimpleNamespace
from typing import Any, Final

import pytest

from keyauthority import AsyncClient, AsyncVerifier, Client, FailedPrecondition, Verifier
from keyauthority._requests import processes
from tests.conftest import one_server
from tests.service.processes import ServerProcess

SECONDS: Final = 20.0
FORK: Final = multiprocessing.get_context("fork")


def forked(body: Callable[[], Any]) -> Any:
    """Return the result of a function in a forked process, an exception as its text."""
    ours, theirs = FORK.Pipe()

    def run() -> None:
        try:
            theirs.send(body())
        except Exception as error:  # noqa: BLE001 - the parent shows it
            theirs.send(f"{type(error).__name__}: {error}")

    process = FORK.Process(target=run)
    process.start()
    try:
        assert ours.poll(SECONDS), "the forked process hangs"
        return ours.recv()
    finally:
        process.kill()
        process.join()


Alone = Callable[[Callable[[str, str], None]], None]


@pytest.fixture(scope="module")
def clean_process() -> Iterator[Executor]:
    """A process without the gRPC threads of other tests, which no fork survives."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture
def alone(clean_process: Executor, server: ServerProcess) -> Alone:
    """Runs the body of a test in the clean process."""

    def run(body: Callable[[str, str], None]) -> None:
        clean_process.submit(body, server.address, server.operator_key).result(3 * SECONDS)

    return run


@one_server
def test_client_reconnects_in_a_forked_process(alone: Alone) -> None:
    """As under gunicorn --preload; the parent's client continues too."""
    alone(_client_reconnects)


def _client_reconnects(address: str, key: str) -> None:
    with Client(address, operator_key=key) as client:
        assert "malformed" == client.verify("none").code

        assert "malformed" == forked(lambda: client.verify("none").code)

        assert "malformed" == client.verify("none").code


@one_server
def test_closed_client_stays_closed_after_a_fork(alone: Alone) -> None:
    """A child does not open a client that its parent closed."""
    alone(_client_stays_closed)


def _client_stays_closed(address: str, key: str) -> None:
    client = Client(address, operator_key=key)
    client.verify("none")
    client.close()

    assert forked(lambda: client.verify("none")).startswith("FailedPrecondition: the client is")


@one_server
def test_verifier_restarts_in_a_forked_process(alone: Alone) -> None:
    """It evaluates and watches there, and does not report the parent's counts."""
    alone(_verifier_restarts)


def _verifier_restarts(address: str, key: str) -> None:
    with (
        Client(address, operator_key=key) as client,
        Verifier(client, report_interval=timedelta(hours=1)) as verifier,
    ):
        project = client.create_project("fork")
        created = client.create_key(project.project_id, mode="test", kind="secret")
        assert verifier.wait_until_fresh(SECONDS)
        assert verifier.verify(created.secret_key).valid
        assert verifier.verify(created.secret_key).valid  # counted here, not in the child

        def child() -> list[Any]:
            fresh = verifier.wait_until_fresh(SECONDS)
            names = {thread.name for thread in threading.enumerate()}
            verdicts = [verifier.verify(created.secret_key).code for _ in range(2)]
            counted = sum(
                row.count for report in verifier._evaluator.reports() for row in report.rows
            )
            return [fresh, "keyauthority-watch" in names, verdicts, counted]

        assert [True, True, ["valid", "valid"], 1] == forked(child)
        assert verifier.verify(created.secret_key).valid


@one_server
def test_module_level_async_client_works_in_every_loop(server: ServerProcess) -> None:
    """It is made outside of a loop and used in several, in turn and at once."""
    client = AsyncClient(server.address, operator_key=server.operator_key)

    async def code() -> str:
        return (await client.verify("none")).code

    async def from_a_thread() -> list[str]:
        return [await asyncio.to_thread(asyncio.run, code()), await code()]

    assert "malformed" == asyncio.run(code())
    assert ["malformed", "malformed"] == asyncio.run(from_a_thread())
    asyncio.run(client.close())
    with pytest.raises(FailedPrecondition, match="the client is closed"):
        asyncio.run(code())


def test_async_client_outside_a_loop_raises_a_clear_error() -> None:
    """The exception is this library's, not asyncio's."""
    with pytest.raises(FailedPrecondition, match="no event loop is running"):
        AsyncClient("127.0.0.1:1").watch_changes()


@one_server
def test_connected_async_client_is_refused_after_a_fork(alone: Alone) -> None:
    """It would hang or abort; a fork before its first call is safe."""
    alone(_async_client_is_refused)


def _async_client_is_refused(address: str, key: str) -> None:
    client = AsyncClient(address, operator_key=key)

    async def code() -> str:
        return (await client.verify("none")).code

    assert "malformed" == forked(lambda: asyncio.run(code()))
    asyncio.run(code())
    assert "make the first call after the fork" in forked(lambda: asyncio.run(code()))
    assert not processes._asyncio_is_lost
    asyncio.run(client.close())


@one_server
def test_async_verifier_restarts_in_the_next_loop(server: ServerProcess) -> None:
    """A closed loop ends its tasks."""
    client = AsyncClient(server.address, operator_key=server.operator_key)
    verifier = AsyncVerifier(client)

    async def use() -> bool:
        assert "malformed" == (await verifier.verify("none")).code
        return await verifier.wait_until_fresh(SECONDS)

    async def first() -> bool:
        await verifier.__aenter__()
        beside = await asyncio.to_thread(asyncio.run, verifier.verify("none"))
        return beside.code == "malformed" and await use()

    async def last() -> bool:
        fresh = await use()
        await verifier.close()
        await client.close()
        return fresh

    assert [True, True, True] == [asyncio.run(one()) for one in (first, use, last)]


@pytest.mark.parametrize(
    ("module", "question", "client", "remedy"),
    [
        ("gevent.monkey", "is_module_patched", Client, r"init_gevent\(\)"),
        ("gevent.monkey", "is_module_patched", AsyncClient, "use Client"),
        ("eventlet.patcher", "is_monkey_patched", Client, "another worker"),
        ("eventlet.patcher", "is_monkey_patched", AsyncClient, "another worker"),
    ],
)
def test_patched_threads_are_refused_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch, module: str, question: str, client: type[Any], remedy: str
) -> None:
    """Every call would hang otherwise, also for open routes."""
    patcher = SimpleNamespace(**{question: lambda name: name in ("threading", "thread")})
    before = client("127.0.0.1:1")
    monkeypatch.setitem(sys.modules, module, patcher)

    with pytest.raises(FailedPrecondition, match=remedy):
        client("127.0.0.1:1")
    with pytest.raises(FailedPrecondition, match=remedy):
        asyncio.run(_watch(before))


async def _watch(client: Client | AsyncClient) -> None:
    client.watch_changes()
