"""The clock: never back, and not an hour forward without the monotonic clock's word."""

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


def test_time_passes_as_the_machine_says(machine: Machine) -> None:
    """Undisturbed, the clock tells the wall clock's time, in UTC."""
    told = SystemClock()
    assert told.now() == START
    machine.run(90)
    assert told.now() == _after(90)
    assert told.now().tzinfo is UTC
    assert told.monotonic() == machine.boot


@pytest.mark.parametrize("step", [0.001, 1.0, HOUR, 24 * HOUR, 365 * 24 * HOUR])
def test_wall_clock_set_back_goes_on_as_before(machine: Machine, step: float) -> None:
    """The clock never runs back, and goes on at its pace while the wall clock is behind."""
    told = SystemClock()
    machine.run(10)
    assert told.now() == _after(10)
    machine.wall -= step
    assert told.now() == _after(10)
    machine.run(5)
    assert told.now() == _after(15)


def test_wall_clock_that_catches_up_is_followed_again(machine: Machine) -> None:
    """Once the wall clock is ahead again, the clock tells its time."""
    told = SystemClock()
    machine.wall -= 60
    assert told.now() == START
    machine.wall += 90
    assert told.now() == _after(30)


@pytest.mark.parametrize("step", [0.5, 60.0, HOUR])
def test_forward_step_up_to_an_hour_is_followed(machine: Machine, step: float) -> None:
    """A step that time servers make is believed."""
    told = SystemClock()
    machine.wall += step
    assert told.now() == _after(step)


@pytest.mark.parametrize("step", [HOUR + 1, 24 * HOUR, 365 * 24 * HOUR])
def test_forward_step_over_an_hour_is_refused_until_undone(machine: Machine, step: float) -> None:
    """No key expires for a jump that nobody confirmed; time is told again once it is undone."""
    told = SystemClock()
    assert told.now() == START
    machine.wall += step
    for _ in range(3):
        with pytest.raises(ClockJumped):
            told.now()
    machine.wall -= step
    machine.run(7)
    assert told.now() == _after(7)


def test_long_silence_is_no_jump(machine: Machine) -> None:
    """A machine that slept, or a clock that nobody asked for days, is believed."""
    told = SystemClock()
    machine.run(10 * 24 * HOUR)
    assert told.now() == _after(10 * 24 * HOUR)


def test_start_behind_the_newest_committed_time_begins_there(machine: Machine) -> None:
    """A wall clock set back between two starts does not bring the past back."""
    told = SystemClock(not_before=START + timedelta(days=1))
    assert told.now() == START + timedelta(days=1)
    machine.run(60)
    assert told.now() == START + timedelta(days=1, seconds=60)


def test_start_after_the_newest_committed_time_takes_the_wall_clock(machine: Machine) -> None:
    """A restart confirms a jump forward."""
    machine.wall += 365 * 24 * HOUR
    told = SystemClock(not_before=START)
    assert told.now() == START + timedelta(days=365)


@pytest.mark.parametrize("pause", [0.01, 2 * HOUR])
def test_pause_between_two_looks_puts_nothing_ahead(machine: Machine, pause: float) -> None:
    """A process that waits for its turn between both clocks never tells a time to come."""
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


def test_two_threads_at_once_take_a_step_once(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forward step that two threads see at the same moment is not added twice."""
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


def test_real_clock_is_the_systems() -> None:
    """With nothing faked, the time told lies between two looks at the system's."""
    told = SystemClock()
    before = datetime.now(UTC)
    now = told.now()
    after = datetime.now(UTC)
    second = timedelta(seconds=1)
    assert before - second <= now <= after + second


def test_reference_is_followed_whatever_the_own_wall_clock_says(machine: Machine) -> None:
    """The time is that of the readings: forward with them, never back, and by no wall clock."""
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


def test_reference_that_jumps_is_not_believed(machine: Machine) -> None:
    """A database whose clock jumps by more than an hour tells no time until that is undone."""
    reference = Reference()
    reference.read(START.timestamp(), asked=machine.boot)
    told = ReferenceClock(reference)
    reference.read(START.timestamp() + HOUR + 1, asked=machine.boot)
    with pytest.raises(ClockJumped):
        told.now()
    reference.read(START.timestamp(), asked=machine.boot)
    assert told.now() == START
