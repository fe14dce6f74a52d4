"""The processor time of each operator's refused requests."""

from __future__ import annotations

import pytest

from keyauthority.errors import ErrorReason, KeyAuthorityError, NotFound, error
from keyauthority_server.overload import refused_work
from keyauthority_server.overload.refused_work import AT_ONCE, PART, RefusedWork
from keyauthority_server.rpc_types import JsonBody

LARGE = bytes(1 << 20)


class World:
    """A clock and a processor that stand until they are moved."""

    now = spent = 0.0

    def __init__(self) -> None:
        self.counted: list[str] = []
        self.work = RefusedWork(self, lambda: self.now, lambda: self.spent)

    def refused(self, reason: str, calls: int = 1) -> None:
        """Count calls that were turned away."""
        self.counted += [reason] * calls

    def call(self, operator: str, seconds: float, reason: ErrorReason | None, body: bytes) -> None:
        """Make a call that takes so long, and fails for a reason."""
        with self.work.charged(operator, body):
            self.spent += seconds
            if reason:
                raise error(reason, "refused")

    def invalid_calls(self, operator: str, seconds: float, body: bytes = LARGE) -> int:
        """Make invalid calls until one is turned away; return how many were not."""
        for number in range(10_000):
            with pytest.raises(KeyAuthorityError) as failed:
                self.call(operator, seconds, ErrorReason.INVALID_FIELD, body)
            if failed.value.reason is ErrorReason.OVERLOADED:
                assert failed.value.retry_after
                return number
        raise AssertionError


@pytest.fixture
def world() -> World:
    """Nothing has been refused."""
    return World()


def test_refused_work_is_limited_by_burst_and_part_of_a_core(world: World) -> None:
    """First a burst, then the part, and never more than the burst."""
    each = AT_ONCE / 64
    assert 64 == world.invalid_calls("KA1", each)
    world.now += each / PART * 8.5
    assert 9 == world.invalid_calls("KA1", each)
    world.now += 10_000
    assert 64 == world.invalid_calls("KA1", each)
    assert ["peer"] * 3 == world.counted


def test_other_operators_and_other_outcomes_are_not_charged(world: World) -> None:
    """An answer and a refusal for another reason cost nothing."""
    for _ in range(100):
        world.call("KA1", 1.0, None, LARGE)
        with pytest.raises(NotFound):
            world.call("KA1", 1.0, ErrorReason.PROJECT_NOT_FOUND, LARGE)
    assert world.invalid_calls("KA1", AT_ONCE / 8)
    assert world.invalid_calls("KA2", AT_ONCE / 8)


def test_charge_is_bounded_by_the_size_of_the_request(world: World) -> None:
    """Calls of others that ran meanwhile count only up to the time of the request itself."""
    most = refused_work._SECONDS_MIN + len(LARGE) * refused_work._SECONDS_PER_BYTE
    assert 1 + AT_ONCE // most == world.invalid_calls("KA1", 1000.0)
    assert 1 == world.invalid_calls("KA2", 1000.0, JsonBody(LARGE))


def test_number_of_remembered_operators_is_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one heard of longest ago is forgotten first."""
    monkeypatch.setattr(refused_work, "OPERATORS_MAX", 2)
    for operator in ("KA1", "KA2", "KA3"):
        world.invalid_calls(operator, AT_ONCE)
    assert not world.invalid_calls("KA3", AT_ONCE)
    assert world.invalid_calls("KA1", AT_ONCE)
