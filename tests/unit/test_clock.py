"""The clock: never backwards, and at most an hour forward without confirmation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from keyauthority import clock
from keyauthority.clock import ClockJumped, Reference, ReferenceClock, SystemClock

START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
HOUR = 3600.0


class Machine:
    """The system's clocks as the test sets them: the wall clock, and the seconds since boot."""

    def __init__(self) -> None:
        self.wall = START.timestamp()
        self.boot = 1_000.0
        self.pause = 0.0
        """How long the process is kept from the processor after each look at a clock."""

    def time(self) -> float:
        """Stand in for time.time."""
        wall = self.wall
        self.run(self.pause)
        return wall

    def clock_gettime(self, _clock: int) -> float:
        """Stand in for time.clock_gettime."""
        boot = self.boot
        self.run(self.pause)
        return boot

    def run(self, seconds: float) -> None:
        """Let time pass, for both clocks."""
        self.wall += seconds
        self.boot += seconds


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine whose time the test makes."""
    made = Machine()
    monkeypatch.setattr(clock, "time", made)
    return made


def _after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def test_clock_follows_the_wall_clock(machine: Machine) -> None:
    """Undisturbed, it returns the wall clock's time in UTC."""
    told = SystemClock()
    assert told.now() == START
    machine.run(90)
    assert told.now() == _after(90)
    assert told.now().tzinfo is UTC
    assert told.monotonic() == machine.boot


@pytest.mark.parametrize("step", [0.001, 1.0, HOUR, 24 * HOUR, 365 * 24 * HOUR])
def test_wall_clock_set_back_does_not_turn_time_back(machine: Machine, step: float) -> None:
    """Time advances at its own pace while the wall clock is behind."""
    told = SystemClock()
    machine.run(10)
    assert told.now() == _after(10)
    machine.wall -= step
    assert told.now() == _after(10)
    machine.run(5)
    assert told.now() == _after(15)


def test_wall_clock_that_catches_up_is_followed_again(machine: Machine) -> None:
    """Once the wall clock is ahead, its time is used."""
    told = SystemClock()
    machine.wall -= 60
    assert told.now() == START
    machine.wall += 90
    assert told.now() == _after(30)


@pytest.mark.parametrize("step", [0.5, 60.0, HOUR])
def test_forward_step_up_to_an_hour_is_followed(machine: Machine, step: float) -> None:
    """Time servers make such steps."""
    told = SystemClock()
    machine.wall += step
    assert told.now() == _after(step)


@pytest.mark.parametrize("step", [HOUR + 1, 24 * HOUR, 365 * 24 * HOUR])
def test_forward_step_over_an_hour_is_refused_until_undone(machine: Machine, step: float) -> None:
    """No key expires by an unconfirmed jump; undone, time is available again."""
    told = SystemClock()
    assert told.now() == START
    machine.wall += step
    for _ in range(3):
        with pytest.raises(ClockJumped):
            told.now()
    machine.wall -= step
    machine.run(7)
    assert told.now() == _after(7)


def test_long_silence_is_not_a_jump(machine: Machine) -> None:
    """A suspended machine, or a clock unread for days, is trusted."""
    told = SystemClock()
    machine.run(10 * 24 * HOUR)
    assert told.now() == _after(10 * 24 * HOUR)


def test_start_behind_the_newest_committed_time_begins_there(machine: Machine) -> None:
    """A wall clock set back between two starts does not restore the past."""
    told = SystemClock(not_before=START + timedelta(days=1))
    assert told.now() == START + timedelta(days=1)
    machine.run(60)
    assert told.now() == START + timedelta(days=1, seconds=60)


def test_start_after_the_newest_committed_time_uses_the_wall_clock(machine: Machine) -> None:
    """A restart confirms a forward jump."""
    machine.wall += 365 * 24 * HOUR
    told = SystemClock(not_before=START)
    assert told.now() == START + timedelta(days=365)


@pytest.mark.parametrize("pause", [0.01, 2 * HOUR])
def test_pause_between_two_readings_adds_no_time(machine: Machine, pause: float) -> None:
    """A process descheduled between both clocks never returns a future time."""
    told = SystemClock()
    machine.pause = pause
    for _ in range(3):
        now = told.now()
        assert now.timestamp() <= machine.wall
    machine.pause = 0.0
    assert told.now() == datetime.fromtimestamp(machine.wall, UTC)


class PausingLimit(float):
    """A limit that calls something the first time that a step is compared with it."""

    pause: Callable[[], object] | None = None

    def __lt__(self, step: float) -> bool:
        pause, self.pause = self.pause, None
        if pause:
            pause()
        return float(self) < step


def test_two_threads_apply_a_step_once(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A forward step seen by two threads at the same instant is added once."""
    told = SystemClock()
    machine.wall += 60
    other = threading.Thread(target=told.now)

    def let_the_other_ask() -> None:
        other.start()
        other.join(timeout=0.2)  # it ends within, unless it is made to wait for this thread

    limit = PausingLimit(HOUR)
    limit.pause = let_the_other_ask
    monkeypatch.setattr(clock, "_JUMP_SECONDS", limit)
    told.now()
    other.join()
    assert told.now() == _after(60)


def test_real_clock_equals_the_system_clock() -> None:
    """With nothing faked, the time lies between two system readings."""
    told = SystemClock()
    before = datetime.now(UTC)
    now = told.now()
    after = datetime.now(UTC)
    second = timedelta(seconds=1)
    assert before - second <= now <= after + second


def test_reference_is_followed_instead_of_the_wall_clock(machine: Machine) -> None:
    """Time comes from the readings: forward with them, never back."""
    reference = Reference()
    reference.read(START.timestamp(), asked=machine.boot - 0.1)
    machine.wall += 50 * 60
    told = ReferenceClock(reference)
    assert told.now() == START
    assert -50 * 60 == pytest.approx(told.ahead, abs=0.2)
    machine.run(5)
    reference.read(START.timestamp() + 65, asked=machine.boot)
    assert told.now() == _after(65)
    reference.read(START.timestamp() + 5, asked=machine.boot)
    assert told.now() == _after(65)


def test_reference_jump_is_refused(machine: Machine) -> None:
    """A database clock that jumps over an hour gives no time until that is undone."""
    reference = Reference()
    reference.read(START.timestamp(), asked=machine.boot)
    told = ReferenceClock(reference)
    reference.read(START.timestamp() + HOUR + 1, asked=machine.boot)
    with pytest.raises(ClockJumped):
        told.now()
    reference.read(START.timestamp(), asked=machine.boot)
    assert told.now() == START
