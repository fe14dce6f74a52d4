"""Results in the chosen form: a table, JSON, lines of JSON, CSV, bare names, or one field."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from typing import Any, Final, NamedTuple, TypeVar, cast

import click
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from keyauthority.cli.options import together
from keyauthority.cli.output import print_fields, print_json, print_rows, show
from keyauthority.cli.session import PAGE_SIZE, option
from keyauthority.client import Listing
from keyauthority.results import Page

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")

_RECORDS: Final = ("key", "project", "previous")
"""Fields of a response whose own fields can be named without them."""


def print_result(message: Message, fields: Sequence[tuple[str, str]], name: str) -> bool:
    """Print one record; return True for a table, to which a command may add sentences.

    `fields` are those of the table, `name` is the bare id.
    """
    if option("field"):
        show(_field_of(message, option("field")))
        return False
    match option("output"):
        case "json":
            print_json(message)
        case "jsonl":
            show(_line(_dict(message)))
        case "csv":
            _print_csv([column for column, _ in fields], [[value for _, value in fields]])
        case "name":
            show(name)
        case _:
            print_fields(fields)
            return True
    return False


def print_listing(
    message: Message,
    items: str,
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
) -> None:
    """Print a page: `items` is the field of the message that holds its records.

    The first column is the bare name of a record.
    """
    records = getattr(message, items)
    if option("field"):
        for record in records:
            show(_field_of(record, option("field")))
        return
    match option("output"):
        case "json":
            print_json(message)
        case "jsonl":
            for record in records:
                show(_line(_dict(record)))
        case "csv":
            _print_csv(columns, rows)
        case "name":
            for name, *_ in rows:
                show(name)
        case _:
            print_rows(columns, rows)


def keeps_secret() -> None:
    """Raise UsageError if the chosen form would lose a secret that is shown only once."""
    if option("output") in ("name", "csv") and not option("field"):
        raise click.UsageError(
            f"-o {option('output')} would lose the secret key: use --field secretKey, or -o json"
        )


class Paging(NamedTuple):
    """The options of a list: how many, from where, in which order."""

    limit: int | None
    page_token: str
    newest_first: bool

    def fetch(self, listing: Callable[..., Listing[T]], *filters: Any, **named: Any) -> Page[T]:
        """Return up to `limit` items; `listing` takes the filters and the size of a page."""
        if self.newest_first and self.page_token:
            raise click.UsageError("--page-token continues a list that begins with the oldest")
        limit = None if self.newest_first else self.limit
        items, page_token = list[T](), self.page_token
        while True:
            room = PAGE_SIZE if limit is None else min(PAGE_SIZE, limit - len(items))
            page = listing(*filters, page_size=room, **named).page(page_token)
            items += page.items
            page_token = page.next_page_token
            if not page_token or (limit is not None and len(items) >= limit):
                break
        if self.newest_first:
            items = items[::-1][: self.limit]
        return Page(tuple(items), page_token)


def paged(command: F) -> F:
    """Add the options of `Paging`, passed to the command as `paging`."""

    @wraps(command)
    def merged(
        *args: Any, limit: int | None, page_token: str, newest_first: bool, **kwargs: Any
    ) -> Any:
        return command(*args, paging=Paging(limit, page_token, newest_first), **kwargs)

    add = together(
        click.option("--limit", type=click.IntRange(min=1), help="Greatest number (default: all)."),
        click.option("--page-token", default="", help="The nextPageToken of an earlier --limit."),
        click.option("--newest-first", is_flag=True, help="Newest first (default: oldest first)."),
    )
    return cast("F", add(merged))


def _print_csv(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    show(text.getvalue().rstrip("\n"))


def _dict(message: Message) -> dict[str, Any]:
    return MessageToDict(message, always_print_fields_with_no_presence=True)


def _line(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _field_of(message: Message, path: str) -> str:
    """Return a field by its JSON name, `secretKey` or `key.accessKey`; UsageError if unknown."""
    value: Any = _dict(message)
    for record in _RECORDS:
        inner = value.get(record)
        if path.partition(".")[0] not in value and isinstance(inner, dict):
            value = {**inner, **value}
    known = value
    for part in path.split("."):
        if not isinstance(value, dict) or part not in value:
            if _is_field(message, path):  # a field that is not set
                return ""
            raise click.UsageError(
                f"--field: no field {path}; there are {', '.join(sorted(known))}"
            )
        value = value[part]
    return value if isinstance(value, str) else _line(value)


def _is_field(message: Message, path: str) -> bool:
    """True if a message, or a record in it, can have the field."""
    own = message.DESCRIPTOR.fields
    inner = [field.message_type for field in own if field.name in _RECORDS and field.message_type]
    fields = [*own, *(field for each in inner for field in each.fields)]
    return path in {field.json_name for field in fields}
