"""Options of a verifier, its timeouts and retries, and its handling of failures."""

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
"""Failures of the server or the network after which the validity of a token is unknown."""

BOUND: Final = timedelta(seconds=2)  # four heartbeats of the watch
SILENCE_MAX: Final = 5.0  # seconds of silence after which a stream is closed: ten heartbeats
RETRY_FIRST: Final = 0.05  # seconds
RETRY_MAX: Final = 1.0  # seconds; the longest delay until a restarted server is found

WATCH: Final = "the watch has ended"
USAGE: Final = "usage is not reported"
IMPORTS: Final = "imported keys are not listed, so the authority is asked about every unknown text"

_log: Final = logging.getLogger("keyauthority.verifier")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The options of a verifier; see `Verifier`."""

    max_staleness: timedelta
    fail_static: timedelta | None
    max_keys: int
    report_interval: timedelta
    timeout: float

    def __post_init__(self) -> None:
        for name in ("max_staleness", "fail_static", "report_interval"):
            span = getattr(self, name)
            if not isinstance(span, timedelta | None):
                raise TypeError(f"{name} is a timedelta, not {type(span).__name__}")
        if self.max_staleness <= timedelta(0) or self.report_interval <= timedelta(0):
            raise ValueError("max_staleness and report_interval must be positive")
        if self.fail_static is not None and self.fail_static < self.max_staleness:
            raise ValueError("fail_static must not be less than max_staleness")
        if self.max_keys < 1 or self.timeout <= 0:
            raise ValueError("max_keys and timeout must be positive")

    def evaluator(self) -> LocalEvaluator:
        """Return a new evaluator with these options."""
        static = self.fail_static
        return LocalEvaluator(
            self.max_keys,
            self.max_staleness.total_seconds(),
            None if static is None else static.total_seconds(),
        )


def check_client(verifier: object, authority: object, other_kind: type) -> None:
    """Raise TypeError for a client of the other kind, awaited or not, or for no client at all."""
    if isinstance(authority, other_kind) or not hasattr(authority, "verify"):
        right = "an AsyncClient" if other_kind.__name__ == "Client" else "a Client"
        raise TypeError(f"{type(verifier).__name__} takes {right}, not {type(authority).__name__}")


class LogOnce:
    """Logs a failure once per subject, until its text changes or it is cleared."""

    def __init__(self) -> None:
        self._logged: dict[str, str] = {}

    def warn(self, subject: str, failure: KeyAuthorityError) -> None:
        """Log a failure, unless it was the last one logged for the subject."""
        text = f"{failure.status}: {failure}"
        if self._logged.get(subject) != text:
            self._logged[subject] = text
            _log.warning("%s: %s", subject, text)

    def clear(self, subject: str) -> None:
        """Record a success: the next failure is logged again."""
        self._logged.pop(subject, None)


def handle_report_failure(
    evaluator: LocalEvaluator, failures: LogOnce, failure: KeyAuthorityError
) -> None:
    """Keep unreported usage for the next attempt; drop a report that can never succeed."""
    failures.warn(USAGE, failure)
    if isinstance(failure, InvalidArgument):
        evaluator.usage.drop_oldest()
    lost = evaluator.usage.lost()
    if lost:
        _log.error("usage of %d verifications is lost", lost)


def server_arguments(query: VerifyQuery) -> dict[str, Any]:
    """Return the arguments of `Client.verify` for the query, with the records included."""
    return {
        **query.facts._asdict(),
        "cost": query.cost,
        "at_least_revision": query.at_least_revision,
        "log_id": query.log_id,
        "explain": query.explain,
        "include_record": True,
    }


def strip_records(query: VerifyQuery, verdict: Verdict) -> Verdict:
    """Return the server's verdict without records that the query did not ask for."""
    return verdict if query.include_record else verdict._replace(key=None, project=None)
