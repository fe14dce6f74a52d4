"""Turns of a database on the loop's core: only while a statement of a change is late."""

from __future__ import annotations

import asyncio
import time

import pytest

from keyauthority_server.store.postgres import database_turns
from keyauthority_server.store.postgres.database_turns import DatabaseTurns


class Waiting:
    """Rows whose statement waits."""

    waiting_since: float | None = None
    is_local = True


class Clock:
    """The module's clock, which only its sleeps advance; `slept` is their number."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept = 0

    def sleep(self, seconds: float) -> None:
        """Advance the clock, by a bit more than asked for, as a real sleep does."""
        self.now += seconds * 1.001
        self.slept += 1


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock in place of the real one."""
    clock = Clock()
    monkeypatch.setattr(database_turns, "monotonic", lambda: clock.now)
    monkeypatch.setattr(time, "sleep", clock.sleep)
    return clock


async def sleeps_after(looks: int, clock: Clock) -> list[int]:
    """Return the numbers of sleeps that were seen while the loop had time for so many looks."""
    seen = [clock.slept]
    for _ in range(2 * looks):
        await asyncio.sleep(database_turns.LOOK_SECONDS)
        if clock.slept != seen[-1]:
            seen.append(clock.slept)
    return seen


async def test_late_statement_gets_longer_and_rarer_turns(clock: Clock) -> None:
    """As long as it waits; the next one begins with a short turn, and so does the next change."""
    rows = Waiting()
    with DatabaseTurns(rows):
        rows.waiting_since = clock.now - 1
        assert [0, 1, 1 + 4, 1 + 4 + 16] == (await sleeps_after(1 + 4 + 16, clock))[:4]
        rows.waiting_since = None
        before = clock.slept
        await sleeps_after(database_turns.LONGEST, clock)
        assert before == clock.slept
        rows.waiting_since = clock.now - 1
        assert [before, before + 1] == (await sleeps_after(2, clock))[:2]
    before = clock.slept
    await sleeps_after(database_turns.LONGEST, clock)
    assert before == clock.slept


async def test_oldest_of_several_statements_is_looked_after(clock: Clock) -> None:
    """Of the writer or the reader; a newer one begins with a short turn once the other is over."""
    writer, reader = Waiting(), Waiting()
    with DatabaseTurns(writer, reader):
        writer.waiting_since, reader.waiting_since = clock.now - 1, clock.now - 2
        assert [0, 1, 1 + 4] == (await sleeps_after(1 + 4, clock))[:3]
        reader.waiting_since, before = None, clock.slept
        seen = await sleeps_after(database_turns.LONGEST, clock)
        assert [before, before + 1, before + 1 + 4] == seen[:3]


async def test_turn_ends_with_the_statement(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop sleeps no longer than the database needs."""
    rows = Waiting()

    def answered(seconds: float) -> None:
        clock.sleep(seconds)
        if clock.slept == 1 + 2:
            rows.waiting_since = None

    monkeypatch.setattr(time, "sleep", answered)
    with DatabaseTurns(rows):
        rows.waiting_since = clock.now - 1
        await sleeps_after(1 + 4 + 16, clock)
    assert 1 + 2 == clock.slept


@pytest.mark.parametrize(("is_local", "age"), [(False, 1.0), (True, 0.0)])
async def test_remote_or_punctual_statement_is_given_no_turn(
    clock: Clock, is_local: bool, age: float
) -> None:
    """A sleep would only cost the calls that the loop serves."""
    rows = Waiting()
    rows.is_local, rows.waiting_since = is_local, clock.now - age
    with DatabaseTurns(rows):
        await sleeps_after(3, clock)
    assert 0 == clock.slept
