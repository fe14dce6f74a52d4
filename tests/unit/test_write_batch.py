"""Write batches: callers of a group are woken together, each with its own result."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import pytest
from structlog.testing import CapturingLogger

from keyauthority_server.store.batching import batch_worker
from keyauthority_server.store.batching import write_batch as under_test
from keyauthority_server.store.batching.write_batch import (
    GROUP_SECONDS,
    WriteBatch,
    WriteUnit,
    await_commit,
)
from keyauthority_server.store.interface import StoreError, StoreUnavailable
from tests.store.factories import sign
from tests.unit.waiting import settle

SLOW: Final = 2 / 3 * GROUP_SECONDS


class Rows:
    """A log without a change, in which nothing is written."""

    failure: StoreError | None = None

    def one(self, statement: str, values: Sequence[Any] = ()) -> Any:
        """Return the counter row."""
        return "a log", 0, b"", None, 0, None, None

    def each(self, statement: str, values: Sequence[Any] = ()) -> Sequence[Any]:
        """Return no row."""
        return ()

    def run(self, statement: str, values: Sequence[Any] = ()) -> None:
        """Do nothing."""

    def run_many(self, statement: str, values: Any) -> None:
        """Do nothing."""

    def run_set(self, statement: Any, values: Any) -> None:
        """Do nothing."""

    def values_table(self, values: Any) -> Any:
        """Return no table."""


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> CapturingLogger:
    """The events of the server's log."""
    log = CapturingLogger()
    monkeypatch.setattr(under_test, "_log", log)
    return log


def raising(error: Exception) -> Callable[[object], None]:
    """Return work that fails."""

    def work(_: object) -> None:
        raise error

    return work


def noting(ran: list[int], number: int, _: object) -> None:
    """Work that notes a number."""
    ran.append(number)


def units() -> WriteBatch:
    """Return the job of a thread that writes."""
    return WriteBatch(Rows(), sign, lambda _: None)


def wakes_of(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return where each wake of the loop by a thread is noted."""
    loop, wakes = asyncio.get_running_loop(), list[object]()
    wake = loop.call_soon_threadsafe

    def noted(callback: Callable[..., object], *given: Any) -> asyncio.Handle:
        wakes.append(callback)
        return wake(callback, *given)

    monkeypatch.setattr(loop, "call_soon_threadsafe", noted)
    return wakes


async def test_group_is_answered_by_one_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    """For returned, raised and cancelled units the loop wakes once."""
    returns, raises, left = group = [
        WriteUnit(lambda _: "done"),
        WriteUnit(raising(ValueError("spoilt"))),
        WriteUnit(lambda _: "unseen"),
    ]
    first, second, third = (asyncio.ensure_future(await_commit(one, 20.0)) for one in group)
    await settle()
    third.cancel()
    await settle()
    wakes = wakes_of(monkeypatch)
    answer, _ = units().run(group)
    answer()
    assert "done" == await first
    with pytest.raises(ValueError, match="spoilt"):
        await second
    assert (1, "unseen") == (len(wakes), left.outcome.result())
    assert (returns.done.done(), raises.done.done()) == (True, True)


async def test_failed_group_is_answered_by_one_wake(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each gets the error; an earlier answer stays."""
    job, group = units(), [WriteUnit(lambda _: None) for _ in range(3)]
    waiting = [asyncio.ensure_future(await_commit(one, 20.0)) for one in group]
    await settle()
    wakes = wakes_of(monkeypatch)
    job.fail(group, StoreError("lost"))
    for one in waiting:
        with pytest.raises(StoreError, match="lost"):
            await one
    assert 1 == len(wakes)


async def test_unit_that_timed_out_in_the_queue_never_runs() -> None:
    """Its caller gets UNAVAILABLE; the others of its group are executed."""
    ran: list[str] = []
    late, other = WriteUnit(lambda _: ran.append("late")), WriteUnit(lambda _: ran.append("other"))
    with pytest.raises(StoreUnavailable, match="not executed"):
        await await_commit(late, 0.001)
    answer, _ = units().run([late, other])
    answer()
    assert ["other"] == ran


async def test_unit_that_timed_out_while_running_has_an_unknown_outcome(
    log: CapturingLogger,
) -> None:
    """The log states the outcome later."""
    unit = WriteUnit(lambda _: "done")
    answer, _ = units().run([unit])
    with pytest.raises(StoreUnavailable, match="outcome is unknown"):
        await await_commit(unit, 0.001)
    assert [] == log.calls
    answer()
    (told,) = log.calls
    assert (("write_unanswered",), "committed") == (told.args, told.kwargs["outcome"])


def test_answer_to_a_closed_loop_is_logged(log: CapturingLogger) -> None:
    """The thread continues."""

    async def leave() -> WriteUnit:
        return WriteUnit(lambda _: "done")

    unit = asyncio.run(leave())
    answer, _ = units().run([unit])
    answer()
    assert ("done", ["unanswered"]) == (unit.outcome.result(), [one.args[0] for one in log.calls])


async def test_group_ends_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key with long lists takes 20 ms: 256 of them would keep a RevokeKey waiting for 5 s."""
    times = iter(range(100))
    monkeypatch.setattr(under_test, "thread_time", lambda: next(times) * SLOW)
    ran: list[int] = []
    group = [WriteUnit(partial(noting, ran, number)) for number in range(5)]
    answer, rest = units().run(group)
    answer()
    assert ([0, 1], group[2:]) == (ran, rest)
    await settle()
    assert [True, True, False, False, False] == [unit.done.done() for unit in group]


class Groups(batch_worker.BatchWorker[WriteUnit]):
    """Notes its groups, and serves two units of each."""

    def __init__(self) -> None:
        self.groups: list[list[WriteUnit]] = []
        self.gate = threading.Lock()
        self.gate.acquire()
        super().__init__(name="groups", most=4)

    def turn(self) -> Any:
        """Wait until all units of the test are submitted."""
        return self.gate

    def serve(self, units: list[WriteUnit]) -> Sequence[WriteUnit]:
        """Serve two units."""
        self.groups.append(units)
        return units[2:]

    def fail(self, units: list[WriteUnit], error: Exception) -> None:
        """Fail the test."""
        raise error

    def end(self) -> None:
        """Release nothing."""


async def test_urgent_units_wait_for_one_other() -> None:
    """So a RevokeKey does not wait for the queue, and a flood of them stops no other change."""
    others = [WriteUnit(lambda _: None) for _ in range(3)]
    urgent = [WriteUnit(lambda _: None, urgent=True) for _ in range(3)]
    worker = Groups()
    for unit in (*others, *urgent):
        worker.submit(unit)
    worker.close()
    worker.gate.release()
    await asyncio.wrap_future(worker.stopped)
    assert [
        [others[0], *urgent],
        [others[1], urgent[1], urgent[2], others[2]],
        [others[2], urgent[2]],
    ] == worker.groups
