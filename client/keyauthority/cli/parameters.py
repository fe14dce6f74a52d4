"""Parsers of option values: `90d`, `100/1m`, `1000/day`, `package=sha1`.

Each is a click parameter type; click names the option in the error of an invalid value.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

import click

from keyauthority.clock import SystemClock
from keyauthority.model import AndroidApp, ApiTargetRestriction, Quota, QuotaPeriod, RateLimit

_UNITS: Final = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_DURATION: Final = re.compile(r"(\d{1,9})([dhms])", re.ASCII)  # 9 digits: within timedelta
_DATE: Final = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_LIMIT: Final = re.compile(r"(\d{1,18})/(.+)", re.ASCII)  # 18 digits: within the proto's int64


def duration(text: str) -> timedelta:
    """Parse a duration: `90d`, `12h`, `30m` or `10s`."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise click.BadParameter(f"{text!r} is not a number followed by d, h, m or s.")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def time_ahead(text: str) -> datetime:
    """Parse an end: a time, or a duration from now, such as 30d."""
    return _time(text, 1)


def time_ago(text: str) -> datetime:
    """Parse a start or a use: a time, or a duration before now, such as 90d."""
    return _time(text, -1)


def _time(text: str, direction: int) -> datetime:
    if _DURATION.fullmatch(text):
        try:
            return SystemClock().now() + direction * duration(text)
        except OverflowError:
            raise click.BadParameter(f"{text!r} is too far from now.") from None
    try:
        parsed = datetime.fromisoformat(f"{text}T00:00Z" if _DATE.fullmatch(text) else text)
    except ValueError:
        parsed = None
    if parsed is None or parsed.tzinfo is None:
        raise click.BadParameter(
            f"{text!r} is no time: write 30d, 2030-01-31, or 2030-01-31T12:00:00Z with its zone."
        )
    return parsed


def rate_limit(text: str) -> RateLimit:
    """Parse a rate limit: `100/1m`."""
    match = _LIMIT.fullmatch(text)
    if match is None or _DURATION.fullmatch(match[2]) is None:
        raise click.BadParameter(f"{text!r} is not a limit and a period, as 100/1m.")
    return RateLimit(int(match[1]), duration(match[2]))


def quota(text: str) -> Quota:
    """Parse a quota: `1000/day`, `1000/month` or `1000/total`."""
    match = _LIMIT.fullmatch(text)
    if match is None or match[2] not in set(QuotaPeriod):
        raise click.BadParameter(f"{text!r} is not a limit and day, month or total, as 1000/day.")
    return Quota(int(match[1]), QuotaPeriod(match[2]))


def pair(text: str) -> tuple[str, str]:
    """Return both sides of the first `=`; the left one must not be empty."""
    first, equals, second = text.partition("=")
    if not first or not equals:
        raise click.BadParameter(f"{text!r} has no = between two parts.")
    return first, second


def android_app(text: str) -> AndroidApp:
    """Parse an Android app: `package=sha1`."""
    return AndroidApp(*pair(text))


def api_target(text: str) -> ApiTargetRestriction:
    """Parse a target restriction: `service` or `service=method,method`."""
    service, _, methods = text.partition("=")
    return ApiTargetRestriction(service, tuple(filter(None, methods.split(","))))


def choice(enum: type[StrEnum]) -> click.Choice[str]:
    """Return the parameter type of an enum: its values in lower case."""
    return click.Choice([member.value for member in enum])


def label_map(pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Return the labels. Raises UsageError for a duplicate name."""
    if len({name for name, _ in pairs}) < len(pairs):
        raise click.UsageError("a label is given twice")
    return dict(pairs)
