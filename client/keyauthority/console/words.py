"""Records in words: permissions, restrictions, verdicts and counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Final

from keyauthority.cli.output import target_text
from keyauthority.model import AdvisoryType, KeyKind, KeyState, Restrictions, VerdictCode

KINDS: Final = {
    KeyKind.SECRET: "Holds every permission of its project and mode. For your own servers.",
    KeyKind.RESTRICTED: "Holds only the permissions that you list. The usual choice.",
    KeyKind.PUBLISHABLE: "Public: it identifies its project, and proves nothing. For apps.",
}
STATES: Final = tuple(KeyState)
VERDICTS: Final = tuple(VerdictCode)
ADVISORIES: Final = tuple(AdvisoryType)
LIMITED: Final = frozenset({VerdictCode.RATE_LIMITED, VerdictCode.QUOTA_EXCEEDED})


def word(value: StrEnum | str | None) -> str:
    """Return the value of an enum with spaces in place of underscores."""
    return str(value.value if isinstance(value, StrEnum) else value or "").replace("_", " ")


def count(number: int) -> str:
    """Return a number with separators for thousands."""
    return f"{number:,}"


def percent(part: int, whole: int) -> str:
    """Return a share; `below 1 %` for a small one that is not zero."""
    if not whole:
        return "0 %"
    share = 100 * part / whole
    if 0 < share < 1:
        return "below 1 %"
    return "above 99 %" if 99 < share < 100 else f"{share:.0f} %"


def grants(permissions: Sequence[str]) -> list[str]:
    """Return each grant as words: `orders:write` is `Read and write orders`."""
    return [_grant(grant) for grant in permissions]


def _grant(grant: str) -> str:
    resource, _, action = grant.partition(":")
    actions = {"*": "Do everything with", "write": "Read and write", "read": "Read"}
    verb = actions.get(action, f"{action.capitalize()}:")
    if resource == "*":
        return f"{verb} everything"
    if resource.endswith(".*"):
        return f"{verb} everything under {resource[:-2]}"
    return f"{verb} {resource}"


def limits(restrictions: Restrictions) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield each list of restrictions that is not empty, with its meaning."""
    lists = (
        ("Only from these addresses", restrictions.allowed_ips),
        ("Only from pages at", restrictions.allowed_referrers),
        (
            "Only from these Android apps",
            [f"{app.package} {app.sha1}" for app in restrictions.android_apps],
        ),
        ("Only from these iOS apps", restrictions.ios_bundle_ids),
        ("Only for these services", list(map(target_text, restrictions.api_targets))),
    )
    return ((meaning, entries) for meaning, entries in lists if entries)


def is_filled(texts: Mapping[str, object], names: Sequence[str]) -> bool:
    """Return True if one of these fields has a text or an error."""
    return any(texts.get(name) for name in names)


def totals(counts: Mapping[VerdictCode, int]) -> list[tuple[VerdictCode, int]]:
    """Return the counts by verdict, VALID first, then the most frequent."""
    return sorted(counts.items(), key=lambda item: (item[0] is not VerdictCode.VALID, -item[1]))
