"""Results on standard output: tables for people, proto JSON for programs."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from enum import Enum
from typing import Final, TextIO

import click
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import Message
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from keyauthority.model import (
    ApiTargetRestriction,
    Key,
    KeyKind,
    Project,
    Quota,
    RateLimit,
    Restrictions,
    Standing,
    Verdict,
)
from keyauthority.text import one_line
from keyauthority.token import SecretKey

_PROSE: Final = frozenset({"purpose", "display_name", "labels", "changed"})
"""Columns that may be folded; other columns hold IDs, times and enum values, kept whole."""
_PROSE_MIN: Final = 16  # screen columns; narrower prose is unreadable
_GAP: Final = 2  # screen columns between two table columns


def print_json(message: Message, indent: int | None = 2) -> None:
    """Print a message as proto JSON: lowerCamelCase, unset fields too; None for one line."""
    show(MessageToJson(message, always_print_fields_with_no_presence=True, indent=indent))


def show(text: str) -> None:
    """Write a line to standard output; characters outside its encoding are escaped.

    click.echo would write UTF-8 to an ASCII stream.
    """
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Write a line to standard error; ignore a failure, since the exit code remains."""
    try:
        click.echo(text, err=True)
    except OSError:
        discard(sys.stderr)


def discard(stream: TextIO) -> None:
    """Discard the buffer of a stream, which Python would otherwise fail to flush at exit."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def print_fields(fields: Iterable[tuple[str, str]]) -> None:
    """Print names and non-empty values in two columns, folded on a terminal."""
    rows = [(name, one_line(value)) for name, value in fields if value]
    width = max((len(name) for name, _ in rows), default=0)
    room = max(_PROSE_MIN, shutil.get_terminal_size().columns - width - _GAP)
    indent = "\n" + " " * (width + _GAP)
    for name, value in rows:
        lines = textwrap.wrap(value, room) if sys.stdout.isatty() else [value]
        show(f"{_bold(name.ljust(width))}{' ' * _GAP}{indent.join(lines)}")


def print_rows(names: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: formatted on a terminal, else one line per row, separated by tabs.

    On a terminal empty columns are omitted, and a table that does not fit is printed as one block
    of names and values per row.
    """
    cells = [tuple(map(one_line, row)) for row in rows]
    if not sys.stdout.isatty():
        show("\n".join("\t".join(line) for line in (names, *cells)))
        return
    used = [i for i, _ in enumerate(names) if not cells or any(row[i] for row in cells)]
    names = [names[i] for i in used]
    cells = [tuple(row[i] for i in used) for row in cells]
    console = Console(highlight=False, markup=False, emoji=False)
    if _least_width(names, cells) > console.width:
        for row in cells:
            print_fields(zip(names, row, strict=True))
            show("")
        return
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style=_header_style())
    for name in names:
        table.add_column(name, no_wrap=name not in _PROSE, overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)


def _least_width(names: Sequence[str], cells: Sequence[Sequence[str]]) -> int:
    """Return the minimum width of the table, with prose folded."""
    total = _GAP * (len(names) - 1)
    for name, column in zip(names, zip(names, *cells, strict=True), strict=True):
        widest = max(map(cell_len, column))
        total += min(widest, _PROSE_MIN) if name in _PROSE else widest
    return total


def _header_style() -> str:
    plain = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return "" if plain else "bold"


def _bold(text: str) -> str:
    return click.style(text, bold=True) if sys.stdout.isatty() and _header_style() else text


def print_secret(key: Key, secret_key: SecretKey, *, quiet: bool) -> None:
    """Print the token of a new key on its own line; a publishable one is in the key's fields."""
    if key.kind is not KeyKind.PUBLISHABLE:
        if not quiet:
            show("\nThe secret key, shown this once and never again:\n")
        show(secret_key.reveal())


def record_fields(record: Key | Project) -> list[tuple[str, str]]:
    """Return the fields of a record, in the order of the model; restrictions are five lists."""
    found: list[tuple[str, str]] = []
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, Restrictions):
            found += [(name, " ".join(texts)) for name, texts in restriction_texts(value)]
        else:
            found.append((field.name, _text(value)))
    found.insert(-1, ("etag", record.etag))  # derived from the revision, the last field
    return found


def row_of(record: object, columns: Sequence[str]) -> tuple[str, ...]:
    """Return the fields of a record that a table shows."""
    return tuple(_text(getattr(record, column)) for column in columns)


def _text(value: object) -> str:
    """Return the value of a field; empty for None and False."""
    match value:
        case None | False:
            return ""
        case True:
            return "yes"
        case datetime():
            return time_text(value)
        case RateLimit():
            return rate_limit_text(value)
        case Quota():
            return quota_text(value)
        case Standing():
            return standing_text(value)
        case Mapping():
            return " ".join(f"{name}={text}" for name, text in sorted(value.items()))
        case tuple():
            return " ".join(value)
        case Enum():
            return word(value)
        case _:
            return str(value)


def restriction_texts(restrictions: Restrictions) -> list[tuple[str, Sequence[str]]]:
    """Return the lists of restrictions by name, in the syntax of the options."""
    return [
        ("allowed_ips", restrictions.allowed_ips),
        ("allowed_referrers", restrictions.allowed_referrers),
        ("android_apps", [f"{app.package}={app.sha1}" for app in restrictions.android_apps]),
        ("ios_bundle_ids", restrictions.ios_bundle_ids),
        ("api_targets", list(map(target_text, restrictions.api_targets))),
    ]


def target_text(target: ApiTargetRestriction) -> str:
    """Return the target in the syntax of the options."""
    return f"{target.service}={','.join(target.methods)}" if target.methods else target.service


def verdict_fields(verdict: Verdict) -> list[tuple[str, str]]:
    """Return the fields of a verdict, without the records."""
    return [("verdict", verdict.code), *zip(_VERDICT, row_of(verdict, _VERDICT), strict=True)]


_VERDICT: Final = (
    *("failed", "access_key", "project_id", "mode", "kind", "permissions", "labels"),
    *("expire_time", "key_standing", "project_standing", "quota_standing", "revision", "log_id"),
)


def time_text(time: datetime | None) -> str:
    """Return the time in ISO 8601, to the second; empty for None."""
    return time.isoformat(timespec="seconds").replace("+00:00", "Z") if time else ""


def word(value: Enum | None) -> str:
    """Return the value of an enum; empty for None."""
    return str(value.value) if value else ""


def rate_limit_text(limit: RateLimit | None) -> str:
    """Return the limit in the syntax of the options; empty for None."""
    return f"{limit.limit}/{duration_text(limit.period)}" if limit else ""


def duration_text(span: timedelta) -> str:
    """Return the duration in the syntax of the options, in its largest whole unit."""
    seconds = int(span.total_seconds())
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def quota_text(quota: Quota | None) -> str:
    """Return the quota in the syntax of the options; empty for None."""
    return f"{quota.limit}/{quota.period}" if quota else ""


def standing_text(standing: Standing) -> str:
    """Return the remaining units and their reset time."""
    until = f" until {time_text(standing.reset_time)}" if standing.reset_time else ""
    return f"{standing.remaining} of {standing.limit} left{until}"
