"""Spends made in the event loop: the same results as in the thread, and no wait."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from keyauthority_server.store.counters import (
    COUNTERS_CLOSED,
    Counter,
    Counters,
    Spend,
    SpendResult,
)
from keyauthority_server.store.interface import StoreError, StoreFull, StoreUnavailable
from keyauthority_server.store.sqlite.connection import SqliteRows, StoreBroken, sqlite3
from keyauthority_server.store.sqlite.counters import COUNTERS_IN_LOOP, counters_path
from keyauthority_server.store.sqlite.file_lock import FairFileLock
from tests.store.engine_only import only
from tests.store.engines import Engine
from tests.store.test_processes import Starter
from tests.store.test_processes import start as start  # the fixture

HOUR: Final = 3_600_000_000
ROUNDS: Final = 60

sqlite = only("sqlite", because="a spend from the other is a network round trip")


def spend(name: str = "a", limit: int = 10, cost: int = 1) -> tuple[Spend]:
    """Return one spend."""
    return (Spend((Counter(name, HOUR, limit),), cost),)


def spend_now(counters: Counters, spends: Sequence[Spend]) -> Sequence[SpendResult]:
    """Spend in the loop; again if a checkpoint of the thread was in the way."""
    end = time.monotonic() + 30
    while (results := counters.spend_now(spends)) is None:
        assert time.monotonic() < end
    return results


def used(results: Sequence[SpendResult]) -> list[int]:
    """Return the used units of one-counter spends."""
    return [state.used for (state,) in results]


def random_spends(chance: random.Random) -> list[Spend]:
    """Return spends from a few counters, whose clocks step back and ahead by several periods."""
    return [
        Spend(
            tuple(
                Counter(name, HOUR * chance.randrange(1, 6), chance.randrange(20), period)
                for name, period in chance.sample([("a", HOUR), ("b", 2 * HOUR), ("c", 0)], 2)
            ),
            chance.randrange(4),
            dry_run=chance.random() >= 0.9,
        )
        for _ in range(chance.randrange(1, 9))
    ]


@sqlite
async def test_spends_in_the_loop_equal_those_of_the_thread(engine: Engine, tmp_path: Path) -> None:
    """Random spends of changing limits under stepping clocks have the same outcome either way."""
    (first := tmp_path / "first").mkdir()
    (second := tmp_path / "second").mkdir()
    at_once, queued = (engine.counters(engine.make(folder)) for folder in (first, second))
    chance = random.Random(20_261_130)
    for _ in range(ROUNDS):
        spends = random_spends(chance)
        assert spend_now(at_once, spends) == await queued.spend(spends)
    for one in (at_once, queued):
        await one.close()


@sqlite
async def test_spends_in_loops_and_threads_total_the_limit(engine: Engine, place: str) -> None:
    """Two processes' worth of counters, each spending both ways at once, give out 250 of 250."""
    pair = [engine.counters(place) for _ in range(2)]
    at_once = 0

    async def one(number: int) -> bool:
        nonlocal at_once
        results = pair[number % 2].spend_now(spend(limit=250)) if number % 3 else None
        at_once += results is not None
        ((state,),) = results or await pair[number % 2].spend(spend(limit=250))
        return state.fits

    assert 250 == sum(await asyncio.gather(*map(one, range(600))))
    assert at_once
    for opened in pair:
        await opened.close()


@sqlite
async def test_nothing_is_spent_while_another_writer_spends_or_waits(
    counters: Counters, place: str
) -> None:
    """Neither lock file is waited for; afterwards the counter has its units."""
    lock = FairFileLock(counters_path(Path(place)))
    try:
        with lock:
            assert counters.spend_now(spend()) is None
        assert lock.take_now()
        lock.release()
        with FairFileLock(counters_path(Path(place))) as other:
            assert not lock.take_now()  # and gives the gate back
            assert counters.spend_now(spend()) is None
        other.close()
    finally:
        lock.close()
    assert [1] == used(spend_now(counters, spend()))


@sqlite
async def test_writer_without_the_lock_files_is_not_waited_for(
    counters: Counters, place: str
) -> None:
    """A transaction of another program makes the spend the thread's."""
    with closing(sqlite3.connect(counters_path(Path(place)), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert counters.spend_now(spend()) is None
        other.execute("ROLLBACK")
    assert [1] == used(spend_now(counters, spend()))


@sqlite
async def test_large_batch_is_left_to_the_thread(counters: Counters) -> None:
    """The loop spends at most so many counters in one turn."""
    spends = [spend(limit=10_000)[0] for _ in range(COUNTERS_IN_LOOP + 1)]
    assert counters.spend_now(spends) is None
    assert COUNTERS_IN_LOOP == used(spend_now(counters, spends[:-1]))[-1]


@sqlite
async def test_counters_that_a_copy_has_taken_over_are_not_spent(
    counters: Counters, place: str
) -> None:
    """The closing is seen although the counter is known; the thread reports it."""
    assert [1] == used(spend_now(counters, spend()))
    with closing(sqlite3.connect(counters_path(Path(place)), isolation_level=None)) as other:
        other.execute("UPDATE counter_state SET closed = 1")
        assert (1,) == other.execute(COUNTERS_CLOSED).fetchone()
    assert counters.spend_now(spend()) is None
    with pytest.raises(StoreUnavailable, match="a copy has taken them over"):
        await counters.spend(spend())


@sqlite
async def test_replaced_counter_file_is_noticed_before_a_spend(
    counters: Counters, place: str
) -> None:
    """A spend from the old file would not be counted."""
    file = counters_path(Path(place))
    file.rename(file.with_suffix(".aside"))
    assert counters.spend_now(spend()) is None


def failing(
    monkeypatch: pytest.MonkeyPatch, prefix: str, *failures: StoreError, after: bool = False
) -> None:
    """Let statements that begin so fail in turn; `after` they were executed."""
    left = list(failures)
    run = SqliteRows.run

    def fail(rows: SqliteRows, statement: str, values: Sequence[Any] = ()) -> None:
        fails = statement.startswith(prefix) and left
        if after or not fails:
            run(rows, statement, values)
        if fails:
            raise left.pop(0)

    monkeypatch.setattr(SqliteRows, "run", fail)


@sqlite
@pytest.mark.parametrize("prefix", ["BEGIN", "COMMIT"])
async def test_full_disk_spends_nothing_in_the_loop(
    counters: Counters, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    """Nothing is committed, and the next spend is made again, from the units before it."""
    assert [1] == used(spend_now(counters, spend()))
    failing(monkeypatch, prefix, StoreFull("full"))
    assert counters.spend_now(spend()) is None
    assert [2] == used(spend_now(counters, spend()))


@sqlite
async def test_known_counter_is_read_again_after_a_spend_of_another(
    counters: Counters, engine: Engine, place: str
) -> None:
    """Neither the spends of another process nor those of the own thread are missed."""
    other = engine.counters(place)
    for total in (1, 4, 7):
        assert [total] == used(spend_now(counters, spend()))
        assert [total + 1] == used(spend_now(other, spend()))
        assert [total + 2] == used(await counters.spend(spend()))
    await other.close()


@sqlite
async def test_known_counters_are_bounded(
    counters: Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counters that are forgotten are read again, and keep their units."""
    monkeypatch.setattr("keyauthority_server.store.sqlite.counters.COUNTS_KNOWN", 3)
    for total in (1, 2, 3):
        for name in "abcdef":
            assert [total] == used(spend_now(counters, spend(name)))


@sqlite
async def test_commit_of_unknown_outcome_is_unavailable_and_not_repeated(
    counters: Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second attempt could spend twice; from then on only the thread spends."""
    failing(monkeypatch, "COMMIT", StoreBroken("failed"), after=True)
    with pytest.raises(StoreUnavailable):
        spend_now(counters, spend())
    assert counters.spend_now(spend()) is None
    assert [2] == used(await counters.spend(spend()))


@sqlite
def test_process_killed_between_spend_and_commit_spends_nothing(
    engine: Engine, place: str, start: Starter
) -> None:
    """The killed transaction is void, and its lock free."""
    with start(place, "fall", "10") as killed:
        assert -signal.SIGKILL == killed.wait(30)
    opened = engine.counters(place)
    assert [1] == used(spend_now(opened, (Spend((Counter("shared", 0, 10),), 1),)))
    asyncio.run(_close(opened))


async def _close(opened: Counters) -> None:
    await opened.close()


@only("postgres", because="the other has a file")
async def test_spend_over_the_network_is_never_made_in_the_loop(counters: Counters) -> None:
    """A round trip would keep all other calls waiting."""
    assert counters.spend_now(spend()) is None
    assert [1] == used(await counters.spend(spend()))
