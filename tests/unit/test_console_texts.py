"""Texts of the console: times, permissions in words, plots, and failures as errors of fields."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from keyauthority.cli.output import duration_text
from keyauthority.console import forms, plots, times, words
from keyauthority.console.failures import field_errors
from keyauthority.console.guard import Hosts
from keyauthority.errors import FieldViolation
from keyauthority.model import UsageRow, VerdictCode

NOW = datetime(2030, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "just now"),
        (5, "in a moment"),
        (-59, "1 minute ago"),
        (-3600, "1 hour ago"),
        (-86_400, "1 day ago"),
        (90 * 86_400, "in 3 months"),
        (-800 * 86_400, "2 years ago"),
        (-50, "50 seconds ago"),
    ],
)
def test_relative_time_is_in_the_largest_unit(seconds: int, text: str) -> None:
    """Rounded, in both directions."""
    assert times.relative(NOW + timedelta(seconds=seconds), NOW) == text


@pytest.mark.parametrize(
    ("grant", "text"),
    [
        ("orders:read", "Read orders"),
        ("orders:write", "Read and write orders"),
        ("*:*", "Do everything with everything"),
        ("billing.*:read", "Read everything under billing"),
        ("orders:refund", "Refund: orders"),
    ],
)
def test_grant_is_said_in_words(grant: str, text: str) -> None:
    """Wildcards too; write includes read."""
    assert words.grants([grant]) == [text]


def row(hours: int, verdict: VerdictCode, count: int) -> UsageRow:
    """Verifications of one hour."""
    time = NOW + timedelta(hours=hours)
    return UsageRow(
        access_key="KA", verdict=verdict, bucket_time=time, count=count, cost=0, last_used_time=time
    )


def test_bars_are_stacked_to_the_height_of_their_counts() -> None:
    """A bar's parts add up, in the groups valid, limited and denied; a single one is visible."""
    rows = [
        row(0, VerdictCode.VALID, 1000),
        row(0, VerdictCode.RATE_LIMITED, 500),
        row(0, VerdictCode.REVOKED, 300),
        row(0, VerdictCode.EXPIRED, 199),
        row(1, VerdictCode.DISABLED, 1),
        row(2, VerdictCode.VALID, 7),
        row(-1, VerdictCode.VALID, 7),
    ]
    plot = plots.plot(rows, NOW, timedelta(hours=1), 2)
    assert plot.top == 2000
    assert plot.counts == {"valid": 1000, "limited": 500, "denied": 500}
    first, second = plot.bars
    assert [(part.group, part.height) for part in first.parts] == [
        ("valid", 60),
        ("limited", 30),
        ("denied", 29.94),
    ]
    assert first.parts[0].y + first.parts[0].height == plots.HEIGHT
    assert [part.height for part in second.parts] == [1]


def test_violation_is_shown_at_the_field_and_line_of_the_form() -> None:
    """The paths are those of requests: lists have indices, restrictions a parent."""
    violations = (
        FieldViolation("permissions[2]", "invalid format"),
        FieldViolation("restrictions.allowed_ips[0]", "not an address"),
        FieldViolation("restrictions.android_apps[1].sha1", "not a SHA-1"),
        FieldViolation("rate_limit.period", "too long"),
        FieldViolation("", "odd"),
    )
    assert field_errors(violations) == {
        "permissions": ["Line 3: invalid format."],
        "allowed_ips": ["Line 1: not an address."],
        "android_apps": ["Line 2: not a SHA-1."],
        "rate_limit": ["Too long."],
        "": ["Odd."],
    }


@pytest.mark.parametrize("text", ["90d", "36h", "90m", "61s", "0s"])
def test_duration_is_written_as_it_is_read(text: str) -> None:
    """So a form that shows a rate limit accepts it again."""
    assert duration_text(forms.duration(text)) == text


def test_hosts_are_the_names_with_the_port() -> None:
    """The port may be left out if it is the default of the scheme; a wildcard is one label."""
    hosts = Hosts("", {"127.0.0.1", "[::1]", "*.example.com"}, 8443, 443)
    for host in ("127.0.0.1:8443", "[::1]:8443", "a.example.com:8443", "A.EXAMPLE.com:8443"):
        assert hosts.allow(host), host
    for host in (
        *("127.0.0.1", "127.0.0.1:443", "[::1]", "example.com:8443", "a.b.example.com:8443"),
        *(".example.com:8443", "evil.example:8443", "127.0.0.1:8443:8443", "127.0.0.1:8443 ", ""),
    ):
        assert not hosts.allow(host), host
    assert Hosts("", {"localhost"}, 443, 443).allow("localhost")
