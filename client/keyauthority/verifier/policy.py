"""When a verifier asks the server, what it takes for "cannot tell", and how it begins again."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from keyauthority.errors import (
    DeadlineExceeded,
    InvalidArgument,
    KeyAuthorityError,
    ResourceExhausted,
    Unavailable,
)
from keyauthority.model import Verdict
from keyauthority.requests import VerifyQuery
from keyauthority.verifier.evaluator import LocalEvaluator

CANNOT_TELL: Final = (Unavailable, DeadlineExceeded, ResourceExhausted)
"""What the server answers, or the way to it, when nobody knows whether a token is valid."""

BOUND: Final = timedelta(seconds=2)  # four heartbeats of the watch
SILENCE_MAX: Final = 5.0  # seconds after which a stream is given up: ten heartbeats
RETRY_FIRST: Final = 0.05  # seconds
RETRY_MAX: Final = 1.0  # seconds; a server that is back is found this soon


WATCH: Final = "the watch has ended"
USAGE: Final = "usage is not reported"

_log: Final = logging.getLogger("keyauthority.verifier")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a verifier was told to behave; see `Verifier`."""

    max_staleness: timedelta
    fail_static: timedelta | None
    max_keys: int
    report_interval: timedelta
    timeout: float

    def __post_init__(self) -> None:
        if self.max_staleness <= timedelta(0) or self.report_interval <= timedelta(0):
            raise ValueError("max_staleness and report_interval must be positive")
        if self.fail_static is not None and self.fail_static < self.max_staleness:
            raise ValueError("fail_static is counted as max_staleness is, and must not be less")
        if self.max_keys < 1 or self.timeout <= 0:
            raise ValueError("max_keys and timeout must be positive")

    def judge(self) -> LocalEvaluator:
        """Return who judges so."""
        static = self.fail_static
        return LocalEvaluator(
            self.max_keys,
            self.max_staleness.total_seconds(),
            None if static is None else static.total_seconds(),
        )


class LogOnce:
    """Says in the log what goes wrong: once, until something else does."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def say(self, what: str, failure: KeyAuthorityError) -> None:
        """Note a failure."""
        text = f"{failure.status}: {failure}"
        if self._said.get(what) != text:
            self._said[what] = text
            _log.warning("%s: %s", what, text)

    def over(self, what: str) -> None:
        """Note that it has gone well."""
        self._said.pop(what, None)


def not_reported(judge: LocalEvaluator, trouble: LogOnce, failure: KeyAuthorityError) -> None:
    """See to usage that the authority did not take: it is kept, unless it will never be taken."""
    trouble.say(USAGE, failure)
    if isinstance(failure, InvalidArgument):
        judge.tally.give_up()
    lost = judge.tally.lost()
    if lost:
        _log.error("usage of %d verifications is lost", lost)


def question_of(presentation: VerifyQuery) -> dict[str, Any]:
    """Return the arguments of `Client.verify` that ask the same, and for the records besides."""
    return {
        **presentation.facts._asdict(),
        "cost": presentation.cost,
        "at_least_revision": presentation.at_least_revision,
        "log_id": presentation.log_id,
        "explain": presentation.explain,
        "include_record": True,
    }


def answer(presentation: VerifyQuery, verdict: Verdict) -> Verdict:
    """Return the server's verdict without the records, unless they were asked for."""
    return verdict if presentation.include_record else verdict._replace(key=None, project=None)
