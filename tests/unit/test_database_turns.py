"""Turns of a database on the loop's core: only while a statement of a change is late."""

from __future__ import annotations

import asyncio
import time

import pytest

from keyauthority.clock import monotonic
from keyauthority_server.store.postgres import database_turns
from keyauthority_server.store.postgres.database_turns import DatabaseTurns


class Waiting:
    """Rows whose statement waits."""

    waiting_since: float | None = None
    is_local = True


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The times for which the loop slept."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


async def looked() -> None:
    """Return after the loop had several turns to look at the statement."""
    for _ in range(5):
        await asyncio.sleep(database_turns.LOOK_SECONDS)


async def test_late_statement_of_a_change_is_given_turns(slept: list[float]) -> None:
    """As long as it waits, and no longer than the change."""
    rows = Waiting()
    with DatabaseTurns(rows):
        rows.waiting_since = monotonic() - database_turns.LATE_SECONDS
        await looked()
        assert slept
        assert {database_turns.TURN_SECONDS} == set(slept)
        rows.waiting_since = None
        slept.clear()
        await looked()
    rows.waiting_since = monotonic() - database_turns.LATE_SECONDS
    await looked()
    assert [] == slept


@pytest.mark.parametrize(("is_local", "age"), [(False, 1.0), (True, -60.0)])
async def test_remote_or_punctual_statement_is_given_no_turn(
    slept: list[float], is_local: bool, age: float
) -> None:
    """A sleep would only cost the calls that the loop serves."""
    rows = Waiting()
    rows.is_local, rows.waiting_since = is_local, monotonic() - age
    with DatabaseTurns(rows):
        await looked()
    assert [] == slept
