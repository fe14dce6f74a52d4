"""Tables of other systems, read as keys to import. Each source has its own columns.

A file is CSV with a header, JSON lines, or one JSON array; a row is a mapping of columns to values.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

from keyauthority.model import (
    AndroidApp,
    ApiTargetRestriction,
    ImportScheme,
    KeyKind,
    KeyMode,
    Quota,
    QuotaPeriod,
    RateLimit,
    Restrictions,
)
from keyauthority.requests import ImportedKey

Row = Mapping[str, Any]

_PURPOSE_MAX: Final = 200  # characters; a longer name is cut
_LABEL_MAX: Final = 255
_NULLS: Final = frozenset({"", "NULL", "null", "\\N", "None"})
_TRUE: Final = frozenset({"true", "t", "1", "yes", "TRUE", "True"})
_DRF_HASH: Final = "sha512$$"
_DAY: Final = 86_400_000  # milliseconds


class Unusable(ValueError):
    """A row that cannot be imported; the message says why, without the digest."""


@dataclass(frozen=True, slots=True)
class Source:
    """A system that keys come from."""

    columns: tuple[str, ...]
    """The columns that every row must have."""
    read: Callable[[Row], ImportedKey]
    """Converts a row; raises ValueError."""
    shape: Mapping[str, Any] = field(default_factory=dict)
    """The usual fields of the import set, except its name; empty if the caller must give them."""


class Defaults(NamedTuple):
    """Values for rows that do not have them."""

    project_id: str
    mode: KeyMode | None
    kind: KeyKind | None


def text(row: Row, *columns: str) -> str:
    """Return the first of the columns with a value, as text; empty if none has one."""
    for column in columns:
        value = row.get(column)
        if value is not None and not (isinstance(value, str) and value.strip() in _NULLS):
            return str(value).strip()
    return ""


def is_true(row: Row, column: str, default: bool = False) -> bool:
    """Return the boolean of a column, in the spelling of any database."""
    value = text(row, column)
    return value in _TRUE if value else default


def number(row: Row, *columns: str) -> int | None:
    """Return the whole number of the first of the columns with a value; None without one."""
    value = text(row, *columns)
    return int(float(value)) if value else None


def moment(row: Row, *columns: str) -> datetime | None:
    """Return the time of a column: ISO 8601, in UTC unless it says otherwise, or milliseconds."""
    value = text(row, *columns)
    if not value:
        return None
    if value.isdigit():
        return datetime.fromtimestamp(int(value) / 1000, UTC)
    parsed = datetime.fromisoformat(value)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _per_milliseconds(row: Row, limit: str, window: str) -> RateLimit | None:
    units, period = number(row, limit), number(row, window)
    if units is None or period is None:
        return None
    return RateLimit(units, timedelta(milliseconds=period))


def _labels(row: Row, **columns: str) -> dict[str, str]:
    found = {label.replace("_", "-"): text(row, column) for label, column in columns.items()}
    return {label: value[:_LABEL_MAX] for label, value in found.items() if value}


def _require_live(row: Row, *, ended: tuple[str, ...] = (), enabled: str = "") -> None:
    """Raise Unusable for a key that does not work in the other system."""
    for column in ended:
        if text(row, column) and text(row, column) not in ("0", "f", "false", "False", "FALSE"):
            raise Unusable(f"not valid in the other system ({column})")
    if enabled and not is_true(row, enabled, default=True):
        raise Unusable(f"disabled in the other system ({enabled})")


def _unkey(row: Row) -> ImportedKey:
    _require_live(row, ended=("deleted_at", "deleted_at_m"), enabled="enabled")
    return ImportedKey(
        digest=text(row, "hash"),
        foreign_id=text(row, "id"),
        purpose=text(row, "name")[:_PURPOSE_MAX],
        expire_time=moment(row, "expires"),
        rate_limit=_per_milliseconds(row, "ratelimit_limit", "ratelimit_duration"),
        quota=_unkey_refilled(row) or _remaining(row, "remaining", "remaining_requests"),
        labels=_labels(row, owner="owner_id", identity="identity_id"),
    )


def _unkey_refilled(row: Row) -> Quota | None:
    amount = number(row, "refill_amount")
    if amount is None:
        return None
    is_monthly = text(row, "refill_day") or text(row, "refill_interval") == "monthly"
    return Quota(amount, QuotaPeriod.MONTH if is_monthly else QuotaPeriod.DAY)


def _remaining(row: Row, *columns: str) -> Quota | None:
    """Return what is left of a quota that is never renewed."""
    left = number(row, *columns)
    return None if left is None else Quota(left, QuotaPeriod.TOTAL)


def _drf(row: Row) -> ImportedKey:
    _require_live(row, ended=("revoked",))
    hashed = text(row, "hashed_key")
    if not hashed.startswith(_DRF_HASH):
        algorithm = hashed.partition("$")[0][:20] or "an unknown algorithm"
        raise Unusable(f"hashed_key: {algorithm}, not {_DRF_HASH}: verify the key there once")
    return ImportedKey(
        digest=hashed.removeprefix(_DRF_HASH),
        foreign_id=text(row, "prefix", "id")[:_PURPOSE_MAX],
        purpose=text(row, "name")[:_PURPOSE_MAX],
        expire_time=moment(row, "expiry_date"),
    )


def _better_auth(row: Row) -> ImportedKey:
    _require_live(row, enabled="enabled")
    limited = is_true(row, "rateLimitEnabled")
    granted = _better_auth_permissions(row)
    return ImportedKey(
        digest=text(row, "key"),
        foreign_id=text(row, "id"),
        kind=KeyKind.RESTRICTED if granted else None,
        purpose=text(row, "name")[:_PURPOSE_MAX],
        permissions=granted,
        expire_time=moment(row, "expiresAt"),
        rate_limit=_per_milliseconds(row, "rateLimitMax", "rateLimitTimeWindow")
        if limited
        else None,
        quota=_better_auth_refilled(row) or _remaining(row, "remaining"),
        labels=_labels(row, user="userId", reference="referenceId"),
    )


def _better_auth_permissions(row: Row) -> tuple[str, ...]:
    """Return the grants of a key that has some. Without them it would hold every permission."""
    permissions = _nested(row, "permissions")
    if not all(isinstance(actions, list) for actions in permissions.values()):
        raise Unusable("permissions: the actions of each resource must be a list")
    granted = tuple(
        f"{name}:{action}" for name, actions in permissions.items() for action in actions
    )
    if not granted and text(row, "permissions"):
        raise Unusable("permissions: they grant nothing")
    return granted


def _better_auth_refilled(row: Row) -> Quota | None:
    amount, interval = number(row, "refillAmount"), number(row, "refillInterval")
    if amount is None or interval is None:
        return None
    if interval != _DAY:
        raise Unusable(f"refillInterval: a quota is renewed each day ({_DAY}), not {interval} ms")
    return Quota(amount, QuotaPeriod.DAY)


def _litellm(row: Row) -> ImportedKey:
    _require_live(row, ended=("blocked",))
    per_minute = number(row, "rpm_limit")
    return ImportedKey(
        digest=text(row, "token"),
        foreign_id=text(row, "key_name"),
        purpose=text(row, "key_alias", "key_name")[:_PURPOSE_MAX],
        expire_time=moment(row, "expires"),
        rate_limit=None if per_minute is None else RateLimit(per_minute, timedelta(minutes=1)),
        labels=_labels(row, user="user_id", team="team_id"),
    )


def _own(row: Row) -> ImportedKey:
    """Read a row with the field names of ImportedKey; lists and messages are JSON in CSV."""
    known = {field.name for field in fields(ImportedKey)}
    unknown = sorted(row.keys() - known)
    if unknown:
        raise Unusable(f"unknown columns: {', '.join(unknown)}")
    mode, kind = text(row, "mode").lower(), text(row, "kind").lower()
    limit, quota = _nested(row, "rate_limit"), _nested(row, "quota")
    return ImportedKey(
        digest=text(row, "digest"),
        foreign_id=text(row, "foreign_id"),
        project_id=text(row, "project_id"),
        mode=KeyMode(mode.removeprefix("key_mode_")) if mode else None,
        kind=KeyKind(kind.removeprefix("key_kind_")) if kind else None,
        purpose=text(row, "purpose"),
        permissions=tuple(_list(row, "permissions")),
        restrictions=_restrictions(_nested(row, "restrictions")),
        expire_time=moment(row, "expire_time"),
        rate_limit=RateLimit(int(limit["limit"]), _span(limit["period"])) if limit else None,
        quota=Quota(int(quota["limit"]), _quota_period(quota["period"])) if quota else None,
        labels=_nested(row, "labels"),
    )


def _nested(row: Row, column: str) -> dict[str, Any]:
    value = row.get(column)
    if isinstance(value, str):
        value = _loads(value) if text(row, column) else None
    if value is not None and not isinstance(value, dict):
        raise Unusable(f"{column}: must be a JSON object")
    return value or {}


def _list(row: Row, column: str) -> list[str]:
    value = row.get(column)
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _loads(value)
    if isinstance(value, str):
        value = value.split()
    return [str(each) for each in value or ()]


def _span(value: str) -> timedelta:
    return timedelta(seconds=float(str(value).removesuffix("s")))


def _quota_period(value: str) -> QuotaPeriod:
    return QuotaPeriod(value.lower().removeprefix("quota_period_"))


def _restrictions(value: Mapping[str, Any]) -> Restrictions:
    return Restrictions(
        allowed_ips=tuple(_list(value, "allowed_ips")),
        allowed_referrers=tuple(_list(value, "allowed_referrers")),
        android_apps=tuple(AndroidApp(**app) for app in value.get("android_apps", ())),
        ios_bundle_ids=tuple(_list(value, "ios_bundle_ids")),
        api_targets=tuple(
            ApiTargetRestriction(target["service"], tuple(target.get("methods", ())))
            for target in value.get("api_targets", ())
        ),
    )


def _shape(scheme: ImportScheme, least: int, most: int, prefix: str = "") -> Mapping[str, Any]:
    return {
        "scheme": scheme,
        "token_prefix": prefix,
        "token_length_min": least,
        "token_length_max": most,
    }


_OWN: Final = Source(("digest",), _own)

SOURCES: Final[Mapping[str, Source]] = {
    "unkey": Source(("id", "hash"), _unkey, _shape(ImportScheme.SHA256_BASE64, 8, 512)),
    "drf": Source(("hashed_key",), _drf, _shape(ImportScheme.SHA512_HEX, 41, 41)),
    "better-auth": Source(
        ("id", "key"), _better_auth, _shape(ImportScheme.SHA256_BASE64URL, 32, 512)
    ),
    "litellm": Source(("token",), _litellm, _shape(ImportScheme.SHA256_HEX, 8, 512, "sk-")),
    "csv": _OWN,
    "jsonl": _OWN,
}
"""The readers by the name of the source."""


def rows_of(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, Row | Unusable]]:
    """Yield line number and row of each key in a file; Unusable for a line that is no row.

    Raises OSError, and Unusable if the file is neither JSON nor CSV with a header of at least the
    `columns`.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = file.read(1)
        file.seek(0)
        if first == "[":
            yield from _array(file.read(), columns)
        elif first == "{":
            for line, content in enumerate(file, 1):
                if content.strip():
                    row = _json_row(content)
                    if line == 1 and not isinstance(row, Unusable):
                        _require_columns(row, columns)
                    yield line, row
        else:
            reader = csv.DictReader(file, strict=True)
            try:
                _require_header(reader.fieldnames or (), columns)
                for row in reader:
                    # Those of a row that is longer or shorter than the header are under None.
                    fits = None not in row and None not in row.values()
                    yield reader.line_num, row if fits else Unusable("not as long as the header")
            except csv.Error as error:
                raise Unusable(f"line {reader.line_num}: {error}") from None


def _require_header(header: Sequence[str], columns: Sequence[str]) -> None:
    repeated = sorted({name for name in header if header.count(name) > 1})
    if repeated:
        raise Unusable(f"repeated columns: {', '.join(repeated)}")
    if not header:
        raise Unusable("the file is empty")
    _require_columns(header, columns)


def _require_columns(present: Container[str], columns: Iterable[str]) -> None:
    missing = [name for name in columns if name not in present]
    if missing:
        raise Unusable(f"missing columns: {', '.join(missing)}")


def _array(content: str, columns: Sequence[str]) -> Iterator[tuple[int, Row | Unusable]]:
    try:
        rows = _loads(content)
    except ValueError as error:
        raise Unusable(f"not valid JSON: {error}") from None
    if rows and isinstance(rows[0], dict):
        _require_columns(rows[0], columns)
    for index, row in enumerate(rows, 1):
        yield index, row if isinstance(row, dict) else Unusable("not a JSON object")


def _loads(content: str) -> Any:
    try:
        return json.loads(content, object_pairs_hook=_object)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _object(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) < len(members):
        raise ValueError("a member of an object is repeated")
    return found


def _json_row(content: str) -> Row | Unusable:
    try:
        row = _loads(content)
    except ValueError as error:
        return Unusable(f"not valid JSON: {error}")
    return row if isinstance(row, dict) else Unusable("not a JSON object")


@contextmanager
def as_unusable() -> Iterator[None]:
    """Turn every failure of reading a row into Unusable, without its values."""
    try:
        yield
    except Unusable:
        raise
    except (ValueError, TypeError, KeyError, OverflowError, OSError) as error:
        raise Unusable(f"cannot be read: {type(error).__name__}: {error}"[:200]) from None
