"""Draws made in the event loop: the same results as in the thread, and no wait."""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from keyauthority_server.store.counters import COUNTERS_CLOSED, Counter, Counters, Drawn, Spend
from keyauthority_server.store.interface import StoreError, StoreFull, StoreUnavailable
from keyauthority_server.store.sqlite.connection import SqliteRows, StoreBroken, sqlite3
from keyauthority_server.store.sqlite.counters import DRAWS_IN_LOOP, counters_path
from keyauthority_server.store.sqlite.file_lock import FairFileLock
from tests.store.engine_only import only
from tests.store.engines import Engine
from tests.store.test_processes import Starter
from tests.store.test_processes import start as start  # the fixture

HOUR: Final = 3_600_000_000
ROUNDS: Final = 60

sqlite = only("sqlite", because="a draw from the other is a network round trip")


@pytest.fixture
async def counters(engine: Engine, place: str) -> AsyncIterator[Counters]:
    """Counters that have counted nothing."""
    opened = engine.counters(place)
    yield opened
    await opened.close()


def spend(name: str = "a", limit: int = 10, cost: int = 1) -> tuple[Spend]:
    """Return one draw."""
    return (Spend((Counter(name, HOUR, limit),), cost),)


def draw_now(counters: Counters, draws: Sequence[Spend]) -> Sequence[Drawn]:
    """Draw in the loop; again if a checkpoint of the thread was in the way."""
    end = time.monotonic() + 30
    while (drawn := counters.draw_now(draws)) is None:
        assert time.monotonic() < end
    return drawn


def used(drawn: Sequence[Drawn]) -> list[int]:
    """Return the used units of one-counter draws."""
    return [state.used for (state,) in drawn]


def random_draws(chance: random.Random) -> list[Spend]:
    """Return draws from a few counters, whose clocks step back and ahead by several periods."""
    return [
        Spend(
            tuple(
                Counter(name, HOUR * chance.randrange(1, 6), chance.randrange(20), period)
                for name, period in chance.sample([("a", HOUR), ("b", 2 * HOUR), ("c", 0)], 2)
            ),
            chance.randrange(4),
            take=chance.random() < 0.9,
        )
        for _ in range(chance.randrange(1, 9))
    ]


@sqlite
async def test_draws_in_the_loop_equal_those_of_the_thread(engine: Engine, tmp_path: Path) -> None:
    """Random draws of changing limits under stepping clocks have the same outcome either way."""
    (first := tmp_path / "first").mkdir()
    (second := tmp_path / "second").mkdir()
    at_once, queued = (engine.counters(engine.make(folder)) for folder in (first, second))
    chance = random.Random(20_261_130)
    for _ in range(ROUNDS):
        draws = random_draws(chance)
        assert draw_now(at_once, draws) == await queued.draw(draws)
    for one in (at_once, queued):
        await one.close()


@sqlite
async def test_draws_in_loops_and_threads_total_the_limit(engine: Engine, place: str) -> None:
    """Two processes' worth of counters, each drawing both ways at once, give out 250 of 250."""
    pair = [engine.counters(place) for _ in range(2)]
    at_once = 0

    async def one(number: int) -> bool:
        nonlocal at_once
        drawn = pair[number % 2].draw_now(spend(limit=250)) if number % 3 else None
        at_once += drawn is not None
        ((state,),) = drawn or await pair[number % 2].draw(spend(limit=250))
        return state.fits

    assert 250 == sum(await asyncio.gather(*map(one, range(600))))
    assert at_once
    for opened in pair:
        await opened.close()


@sqlite
async def test_nothing_is_drawn_while_another_writer_draws_or_waits(
    counters: Counters, place: str
) -> None:
    """Neither lock file is waited for; afterwards the counter has its units."""
    lock = FairFileLock(counters_path(Path(place)))
    try:
        with lock:
            assert counters.draw_now(spend()) is None
        assert lock.take_now()
        lock.release()
        with FairFileLock(counters_path(Path(place))) as other:
            assert not lock.take_now()  # and gives the gate back
            assert counters.draw_now(spend()) is None
        other.close()
    finally:
        lock.close()
    assert [1] == used(draw_now(counters, spend()))


@sqlite
async def test_writer_without_the_lock_files_is_not_waited_for(
    counters: Counters, place: str
) -> None:
    """A transaction of another program makes the draw the thread's."""
    with closing(sqlite3.connect(counters_path(Path(place)), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert counters.draw_now(spend()) is None
        other.execute("ROLLBACK")
    assert [1] == used(draw_now(counters, spend()))


@sqlite
async def test_large_batch_is_left_to_the_thread(counters: Counters) -> None:
    """The loop draws at most so many counters in one turn."""
    draws = [spend(limit=10_000)[0] for _ in range(DRAWS_IN_LOOP + 1)]
    assert counters.draw_now(draws) is None
    assert DRAWS_IN_LOOP == used(draw_now(counters, draws[:-1]))[-1]


@sqlite
async def test_counters_that_a_copy_has_taken_over_are_not_drawn(
    counters: Counters, place: str
) -> None:
    """The closing is seen although the counter is known; the thread reports it."""
    assert [1] == used(draw_now(counters, spend()))
    with closing(sqlite3.connect(counters_path(Path(place)), isolation_level=None)) as other:
        other.execute("UPDATE counter_state SET closed = 1")
        assert (1,) == other.execute(COUNTERS_CLOSED).fetchone()
    assert counters.draw_now(spend()) is None
    with pytest.raises(StoreUnavailable, match="a copy has taken them over"):
        await counters.draw(spend())


@sqlite
async def test_replaced_counter_file_is_noticed_before_a_draw(
    counters: Counters, place: str
) -> None:
    """A draw from the old file would not be counted."""
    file = counters_path(Path(place))
    file.rename(file.with_suffix(".aside"))
    assert counters.draw_now(spend()) is None


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
async def test_full_disk_draws_nothing_in_the_loop(
    counters: Counters, monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    """Nothing is committed, and the next draw is made again, from the units before it."""
    assert [1] == used(draw_now(counters, spend()))
    failing(monkeypatch, prefix, StoreFull("full"))
    assert counters.draw_now(spend()) is None
    assert [2] == used(draw_now(counters, spend()))


@sqlite
async def test_known_counter_is_read_again_after_a_draw_of_another(
    counters: Counters, engine: Engine, place: str
) -> None:
    """Neither the draws of another process nor those of the own thread are missed."""
    other = engine.counters(place)
    for total in (1, 4, 7):
        assert [total] == used(draw_now(counters, spend()))
        assert [total + 1] == used(draw_now(other, spend()))
        assert [total + 2] == used(await counters.draw(spend()))
    await other.close()


@sqlite
async def test_known_counters_are_bounded(
    counters: Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counters that are forgotten are read again, and keep their units."""
    monkeypatch.setattr("keyauthority_server.store.sqlite.counters.COUNTS_KNOWN", 3)
    for total in (1, 2, 3):
        for name in "abcdef":
            assert [total] == used(draw_now(counters, spend(name)))


@sqlite
async def test_commit_of_unknown_outcome_is_unavailable_and_not_repeated(
    counters: Counters, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second attempt could draw twice; from then on only the thread draws."""
    failing(monkeypatch, "COMMIT", StoreBroken("failed"), after=True)
    with pytest.raises(StoreUnavailable):
        draw_now(counters, spend())
    assert counters.draw_now(spend()) is None
    assert [2] == used(await counters.draw(spend()))


@sqlite
def test_process_killed_between_draw_and_commit_draws_nothing(
    engine: Engine, place: str, start: Starter
) -> None:
    """The killed transaction is void, and its lock free."""
    with start(place, "fall", "10") as killed:
        assert -signal.SIGKILL == killed.wait(30)
    opened = engine.counters(place)
    assert [1] == used(draw_now(opened, (Spend((Counter("shared", 0, 10),), 1),)))
    asyncio.run(_close(opened))


async def _close(opened: Counters) -> None:
    await opened.close()


@only("postgres", because="the other has a file")
async def test_draw_over_the_network_is_never_made_in_the_loop(counters: Counters) -> None:
    """A round trip would keep all other calls waiting."""
    assert counters.draw_now(spend()) is None
    assert [1] == used(await counters.draw(spend()))
