"""Counters of limits: exact, all or nothing, over processes, and through kill -9."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from keyauthority_server.store.counters import Counter, Counters, CounterState, Drawn, Spend
from keyauthority_server.store.interface import StoreUnavailable
from keyauthority_server.store.sqlite import writer
from keyauthority_server.store.sqlite.counters import counters_path
from tests.store.engine_only import only
from tests.store.engines import Engine
from tests.store.test_processes import Starter
from tests.store.test_processes import start as start  # the fixture

HOUR = 3_600_000_000


@pytest.fixture
async def counters(engine: Engine, place: str) -> AsyncIterator[Counters]:
    """Counters that have counted nothing."""
    opened = engine.counters(place)
    yield opened
    await opened.close()


def counter(name: str = "a", limit: int = 10, start: int = HOUR) -> Counter:
    """Return a counter in a window."""
    return Counter(name, start, limit)


async def draw(counters: Counters, cost: int, *wanted: Counter, take: bool = True) -> Drawn:
    """Make one draw alone."""
    return (await counters.draw((Spend(wanted, cost, take),)))[0]


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
async def test_draw_fits_just_while_there_is_room(
    counters: Counters, limit: int, costs: tuple[int, ...], fit: tuple[bool, ...]
) -> None:
    """A cost fits if it is left; a cost of 0 takes nothing, and fits while a unit is left."""
    used = 0
    for cost, fits in zip(costs, fit, strict=True):
        used += cost if fits else 0
        assert (CounterState(HOUR, used, fits),) == await draw(counters, cost, counter(limit=limit))


async def test_denied_draw_takes_nothing_from_any_counter(counters: Counters) -> None:
    """If one of three counters has no room, all three are left as they are."""
    three = (counter("a", 9), counter("b", 5), counter("c", 7))
    await draw(counters, 4, *three)
    for cost, fits in ((2, (True, False, True)), (4, (True, False, False))):
        expected = tuple(CounterState(HOUR, 4, one) for one in fits)
        assert expected == await draw(counters, cost, *three)
    assert (4, 4, 4) == tuple(level.used for level in await draw(counters, 0, *three))


async def test_look_takes_nothing(counters: Counters) -> None:
    """A draw that only looks tells whether its cost would fit, and leaves it there."""
    for _ in range(2):
        assert (CounterState(HOUR, 0, True),) == await draw(counters, 10, counter(), take=False)
    assert (CounterState(HOUR, 0, False),) == await draw(counters, 11, counter(), take=False)


async def test_batch_is_drawn_in_its_order(counters: Counters) -> None:
    """The first draws of a batch get what is left; a later, smaller one may still fit."""
    drawn = await counters.draw([Spend((counter(),), cost) for cost in (6, 5, 4, 1)])
    assert [(6, True), (6, False), (10, True), (10, False)] == [
        (level.used, level.fits) for (level,) in drawn
    ]


async def test_new_window_begins_anew_and_an_older_one_is_never_opened_again(
    counters: Counters,
) -> None:
    """Whoever's clock is behind draws in the newest window that anyone has drawn in."""
    await draw(counters, 10, counter(start=HOUR))
    assert (CounterState(2 * HOUR, 4, True),) == await draw(counters, 4, counter(start=2 * HOUR))
    assert (CounterState(2 * HOUR, 10, True),) == await draw(counters, 6, counter(start=HOUR))
    assert (CounterState(2 * HOUR, 10, False),) == await draw(counters, 1, counter(start=HOUR))
    assert (CounterState(3 * HOUR, 1, True),) == await draw(counters, 1, counter(start=3 * HOUR))


async def test_changed_limit_is_in_force_at_once(counters: Counters) -> None:
    """A limit that was raised has room; one lowered below what was used has none."""
    await draw(counters, 8, counter(limit=10))
    assert (CounterState(HOUR, 8, False),) == await draw(counters, 1, counter(limit=5))
    assert (CounterState(HOUR, 12, True),) == await draw(counters, 4, counter(limit=12))


async def test_concurrent_draws_of_two_stores_give_just_the_limit(
    engine: Engine, place: str
) -> None:
    """Of 600 draws through two connections against 250, 250 fit."""
    pair = [engine.counters(place) for _ in range(2)]
    wanted = counter(limit=250)
    drawn = await asyncio.gather(*(draw(pair[i % 2], 1, wanted) for i in range(600)))
    assert 250 == sum(level.fits for (level,) in drawn)
    assert list(range(1, 251)) == sorted(level.used for (level,) in drawn if level.fits)
    for one in pair:
        await one.close()


def test_killed_process_forgets_no_draw_that_was_answered(
    engine: Engine, place: str, start: Starter
) -> None:
    """Of what processes draw that are killed in the middle, all that they had said is counted."""
    said = 0
    for lines in (1, 30, 60):
        drawers = [start(place, "draw", "100000") for _ in range(2)]
        for one in drawers:
            assert one.stdout is not None
            said += len([one.stdout.readline() for _ in range(lines)])
            one.kill()
            said += sum(line.endswith("\n") for line in one.stdout.read().splitlines(True))
    (level,) = asyncio.run(_look(engine, place, counter("shared", 100_000, start=0)))
    assert said <= level.used <= said + 6 * 8  # at most one unanswered for each of 8 callers
    assert said >= 182


async def _look(engine: Engine, place: str, wanted: Counter) -> Drawn:
    opened = engine.counters(place)
    drawn = await draw(opened, 0, wanted)
    await opened.close()
    return drawn


async def test_draw_that_cannot_be_made_in_time_is_neither_room_nor_denial(
    counters: Counters, engine: Engine, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While others hold the counters up the answer is StoreUnavailable; nothing is drawn later."""
    _, draw_timeout = engine.timeouts
    monkeypatch.setattr(draw_timeout, 0.05)
    with engine.drawers_held_up(place), pytest.raises(StoreUnavailable):
        await draw(counters, 1, counter())
    monkeypatch.setattr(draw_timeout, 5.0)
    assert (CounterState(HOUR, 1, True),) == await draw(counters, 1, counter())


async def test_caller_who_goes_away_before_his_turn_draws_nothing(
    counters: Counters, engine: Engine, place: str
) -> None:
    """A draw whose caller has gone before it began is not made."""
    with engine.drawers_held_up(place):
        gone = asyncio.create_task(draw(counters, 1, counter()))
        await asyncio.sleep(0)
        gone.cancel()
        with pytest.raises(asyncio.CancelledError):
            await gone
    assert (CounterState(HOUR, 1, True),) == await draw(counters, 1, counter())


@only("sqlite", because="the others have no file to exchange")
async def test_exchanged_counters_are_noticed(
    engine: Engine, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When their file was put aside nothing is drawn from it any more."""
    monkeypatch.setattr(writer, "IDLE_SECONDS", 0.01)
    opened = engine.counters(place)
    await draw(opened, 1, counter())
    file = counters_path(Path(place))
    file.rename(file.with_suffix(".aside"))
    with pytest.raises(StoreUnavailable):
        await draw(opened, 1, counter())
    await opened.close()


async def test_closing_answers_the_draws_that_were_handed_in(engine: Engine, place: str) -> None:
    """Draws handed in before close are made; later ones are refused."""
    opened = engine.counters(place)
    drawing = [asyncio.create_task(draw(opened, 1, counter(limit=30))) for _ in range(30)]
    await asyncio.sleep(0)
    await opened.close()
    assert all(level.fits for (level,) in await asyncio.gather(*drawing))
    with pytest.raises(StoreUnavailable):
        await draw(opened, 1, counter())


async def test_window_further_ahead_than_one_period_is_replaced(counters: Counters) -> None:
    """A clock that was wrong has opened it: a limit does not stand still until its time comes."""
    at = counter()._replace(period=HOUR)
    ahead = at._replace(start=at.start + HOUR)
    assert (CounterState(ahead.start, 1, True),) == await draw(counters, 1, ahead)
    assert (CounterState(ahead.start, 2, True),) == await draw(counters, 1, at)
    far = at._replace(start=at.start + 2 * HOUR)
    assert (CounterState(far.start, 1, True),) == await draw(counters, 1, far)
    assert (CounterState(at.start, 1, True),) == await draw(counters, 1, at)
