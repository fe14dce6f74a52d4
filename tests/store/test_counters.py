"""Limit counters: exact, all or nothing, shared by processes, and durable through kill -9."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from keyauthority_server.store.counters import Counter, Counters, CounterState, Spend, SpendResult
from keyauthority_server.store.interface import StoreUnavailable
from keyauthority_server.store.sqlite import writer
from keyauthority_server.store.sqlite.counters import counters_path
from tests.store.engine_only import only
from tests.store.engines import Engine
from tests.store.test_processes import Starter
from tests.store.test_processes import start as start  # the fixture

HOUR = 3_600_000_000


def counter(name: str = "a", limit: int = 10, start: int = HOUR) -> Counter:
    """Return a counter in a window."""
    return Counter(name, start, limit)


async def spend(
    counters: Counters, cost: int, *wanted: Counter, dry_run: bool = False
) -> SpendResult:
    """Make one spend alone."""
    return (await counters.spend((Spend(wanted, cost, dry_run),)))[0]


@pytest.mark.parametrize(
    ("limit", "costs", "fit"),
    [
        (3, (1, 1, 1, 1), (True, True, True, False)),
        (10, (4, 4, 4, 2), (True, True, False, True)),
        (10, (11, 10, 1), (False, True, False)),
        (0, (0, 1), (False, False)),
        (2, (0, 2, 0), (True, True, False)),
        (2**63 - 1, (2**63 - 1, 1), (True, False)),
    ],
)
async def test_spend_fits_while_units_are_left(
    counters: Counters, limit: int, costs: tuple[int, ...], fit: tuple[bool, ...]
) -> None:
    """A cost fits if as many units are left; cost 0 takes none, and fits while one is left."""
    used = 0
    for cost, fits in zip(costs, fit, strict=True):
        used += cost if fits else 0
        assert (CounterState(HOUR, used, fits),) == await spend(
            counters, cost, counter(limit=limit)
        )


async def test_denied_spend_takes_nothing_from_any_counter(counters: Counters) -> None:
    """If one of three counters has too few units, all three keep theirs."""
    three = (counter("a", 9), counter("b", 5), counter("c", 7))
    await spend(counters, 4, *three)
    for cost, fits in ((2, (True, False, True)), (4, (True, False, False))):
        expected = tuple(CounterState(HOUR, 4, one) for one in fits)
        assert expected == await spend(counters, cost, *three)
    assert (4, 4, 4) == tuple(state.used for state in await spend(counters, 0, *three))


async def test_dry_run_spend_takes_nothing(counters: Counters) -> None:
    """A dry run reports whether its cost would fit and takes no units."""
    for _ in range(2):
        assert (CounterState(HOUR, 0, True),) == await spend(counters, 10, counter(), dry_run=True)
    assert (CounterState(HOUR, 0, False),) == await spend(counters, 11, counter(), dry_run=True)


async def test_batch_is_spent_in_order(counters: Counters) -> None:
    """Earlier items get the units that are left; a later, smaller one may still fit."""
    results = await counters.spend([Spend((counter(),), cost) for cost in (6, 5, 4, 1)])
    assert [(6, True), (6, False), (10, True), (10, False)] == [
        (state.used, state.fits) for (state,) in results
    ]


async def test_new_window_starts_empty_and_no_older_one_reopens(
    counters: Counters,
) -> None:
    """A process with a slow clock spends in the newest window that any process has opened."""
    await spend(counters, 10, counter(start=HOUR))
    assert (CounterState(2 * HOUR, 4, True),) == await spend(counters, 4, counter(start=2 * HOUR))
    assert (CounterState(2 * HOUR, 10, True),) == await spend(counters, 6, counter(start=HOUR))
    assert (CounterState(2 * HOUR, 10, False),) == await spend(counters, 1, counter(start=HOUR))
    assert (CounterState(3 * HOUR, 1, True),) == await spend(counters, 1, counter(start=3 * HOUR))


async def test_changed_limit_applies_to_the_next_spend(counters: Counters) -> None:
    """A raised limit has units left; one lowered below its usage has none."""
    await spend(counters, 8, counter(limit=10))
    assert (CounterState(HOUR, 8, False),) == await spend(counters, 1, counter(limit=5))
    assert (CounterState(HOUR, 12, True),) == await spend(counters, 4, counter(limit=12))


async def test_concurrent_spends_of_two_stores_total_the_limit(engine: Engine, place: str) -> None:
    """Of 600 spends through two connections against a limit of 250, exactly 250 fit."""
    pair = [engine.counters(place) for _ in range(2)]
    wanted = counter(limit=250)
    results = await asyncio.gather(*(spend(pair[i % 2], 1, wanted) for i in range(600)))
    assert 250 == sum(state.fits for (state,) in results)
    assert list(range(1, 251)) == sorted(state.used for (state,) in results if state.fits)
    for one in pair:
        await one.close()


def test_killed_process_loses_no_acknowledged_spend(
    engine: Engine, place: str, start: Starter
) -> None:
    """Every spend that a process acknowledged before kill -9 is counted."""
    said = 0
    for lines in (1, 30, 60):
        spenders = [start(place, "spend", "100000") for _ in range(2)]
        for one in spenders:
            assert one.stdout is not None
            said += len([one.stdout.readline() for _ in range(lines)])
            one.kill()
            said += sum(line.endswith("\n") for line in one.stdout.read().splitlines(True))
    (state,) = asyncio.run(_look(engine, place, counter("shared", 100_000, start=0)))
    assert said <= state.used <= said + 6 * 8  # at most one unanswered for each of 8 callers
    assert said >= 182


async def _look(engine: Engine, place: str, wanted: Counter) -> SpendResult:
    opened = engine.counters(place)
    results = await spend(opened, 0, wanted)
    await opened.close()
    return results


async def test_spend_that_times_out_is_unavailable_and_never_counted(
    counters: Counters, engine: Engine, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the counters are locked a spend is StoreUnavailable; it is not made later."""
    _, spend_timeout = engine.timeouts
    monkeypatch.setattr(spend_timeout, 0.05)
    with engine.spends_held_up(place), pytest.raises(StoreUnavailable):
        await spend(counters, 1, counter())
    monkeypatch.setattr(spend_timeout, 5.0)
    assert (CounterState(HOUR, 1, True),) == await spend(counters, 1, counter())


async def test_cancelled_spend_in_the_queue_is_not_made(
    counters: Counters, engine: Engine, place: str
) -> None:
    """A spend whose caller is cancelled before its turn takes nothing."""
    with engine.spends_held_up(place):
        gone = asyncio.create_task(spend(counters, 1, counter()))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
    assert (CounterState(HOUR, 1, True),) == await spend(counters, 1, counter())


@only("sqlite", because="the others have no file to exchange")
async def test_replaced_counter_file_is_noticed(
    engine: Engine, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the file was moved away, every spend on the old file fails."""
    monkeypatch.setattr(writer, "IDLE_SECONDS", 0.01)
    opened = engine.counters(place)
    await spend(opened, 1, counter())
    file = counters_path(Path(place))
    file.rename(file.with_suffix(".aside"))
    with pytest.raises(StoreUnavailable):
        await spend(opened, 1, counter())
    await opened.close()


async def test_close_finishes_queued_spends(engine: Engine, place: str) -> None:
    """Spends queued before close are made; later ones are refused."""
    opened = engine.counters(place)
    spending = [asyncio.create_task(spend(opened, 1, counter(limit=30))) for _ in range(30)]
    await asyncio.sleep(0)
    await opened.close()
    assert all(state.fits for (state,) in await asyncio.gather(*spending))
    with pytest.raises(StoreUnavailable):
        await spend(opened, 1, counter())


async def test_window_beyond_one_period_ahead_is_replaced(counters: Counters) -> None:
    """A wrong clock opened it; the limit does not block until that time comes."""
    at = counter()._replace(period=HOUR)
    ahead = at._replace(start=at.start + HOUR)
    assert (CounterState(ahead.start, 1, True),) == await spend(counters, 1, ahead)
    assert (CounterState(ahead.start, 2, True),) == await spend(counters, 1, at)
    far = at._replace(start=at.start + 2 * HOUR)
    assert (CounterState(far.start, 1, True),) == await spend(counters, 1, far)
    assert (CounterState(at.start, 1, True),) == await spend(counters, 1, at)
