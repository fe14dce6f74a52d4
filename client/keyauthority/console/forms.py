"""Form input: texts as they were typed, and the arguments of calls that they stand for.

Fields have the names of the proto; a list is a text with one entry per line. The authority checks
every value again, and alone decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, Final, TypeVar

import click
from starlette.exceptions import HTTPException
from starlette.requests import Request

from keyauthority.cli import parameters
from keyauthority.cli.options import RESTRICTIONS
from keyauthority.cli.output import quota_text, rate_limit_text, restriction_texts
from keyauthority.clock import EPOCH
from keyauthority.console.times import exact
from keyauthority.model import AndroidApp, Key, Project, Restrictions
from keyauthority.permissions import is_grant
from keyauthority.restrictions import canonical_sha1, check_ip_or_network, check_referrer

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

Texts = Mapping[str, str]

_LATEST: Final = datetime(9000, 1, 1, tzinfo=UTC)
_CENTURY: Final = timedelta(days=36_500)
_LINE_END: Final = re.compile(r"\r\n|\r|\n")  # a label may contain other separators


class Refused(Exception):
    """Input that does not parse; `errors` has the descriptions by field."""

    def __init__(self, errors: Mapping[str, list[str]]) -> None:
        super().__init__(", ".join(errors))
        self.errors = errors


class Reader:
    """Reads fields of a form and collects the errors; `finish` raises them."""

    def __init__(self, texts: Texts) -> None:
        self._texts = texts
        self.errors: dict[str, list[str]] = {}

    def text(self, name: str) -> str:
        """Return the text of a field without white space around it."""
        return self._texts.get(name, "").strip()

    def value(self, name: str, parse: Callable[[str], T]) -> T | None:
        """Return the value of a field; None if it is empty or refused."""
        return self._parsed(name, self.text(name), parse) if self.text(name) else None

    def lines(self, name: str, parse: Callable[[str], T]) -> tuple[T, ...]:
        """Return the value of each line that is not empty."""
        parsed = (
            self._parsed(name, line, parse, f"Line {number}: ")
            for number, line in enumerate(lines_of(self._texts.get(name, "")), start=1)
        )
        return tuple(value for value in parsed if value is not None)

    def choice(self, name: str, enum: type[E]) -> E | None:
        """Return the member that a field names; None if it is empty or refused."""
        return self.value(name, lambda text: _member(enum, text))

    def read(self, name: str) -> Any:
        """Return the value of a field of `FIELDS`."""
        parse, several = _PARSERS[name]
        value = self.lines(name, parse) if several else self.value(name, parse)
        return dict(value) if name == "labels" and value is not None else value

    def restrictions(self) -> Restrictions:
        """Return the restrictions of the five lists."""
        return Restrictions(**{name: self.read(name) for name in RESTRICTIONS})

    def refuse(self, name: str, description: str) -> None:
        """Add an error."""
        self.errors.setdefault(name, []).append(description)

    def finish(self) -> None:
        """Raise Refused if anything was refused."""
        if self.errors:
            raise Refused(self.errors)

    def _parsed(self, name: str, text: str, parse: Callable[[str], T], place: str = "") -> T | None:
        try:
            return parse(text)
        except (ValueError, click.BadParameter) as invalid:
            message = invalid.message if isinstance(invalid, click.BadParameter) else str(invalid)
            self.refuse(name, f"{place}{message}")
            return None


def lines_of(text: str) -> list[str]:
    """Return the lines that are not empty, without white space around them."""
    return [line for line in map(str.strip, _LINE_END.split(text)) if line]


def time(text: str) -> datetime:
    """Parse a time; one without a zone is in UTC, as browsers send it."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is not a time, as 2030-01-31 or 2030-01-31T12:00:00Z."
        ) from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def filter_time(text: str) -> datetime:
    """Parse a time that a list is filtered by: far enough from the ends of all times."""
    parsed = time(text)
    if not EPOCH <= parsed <= _LATEST:
        raise ValueError(f"{text!r} is not between the years 1970 and 9000.")
    return parsed


def filter_span(text: str) -> timedelta:
    """Parse a duration that a list is filtered by: at most a century."""
    parsed = duration(text)
    if parsed > _CENTURY:
        raise ValueError(f"{text!r} is more than {_CENTURY.days} days.")
    return parsed


def duration(text: str) -> timedelta:
    """Parse a duration: `90d`, `12h`, `30m`, `10s` or `0`."""
    return timedelta() if text == "0" else parameters.duration(text)


def _member(enum: type[E], text: str) -> E:
    try:
        return enum(text)
    except ValueError:
        raise ValueError(f"{text!r} is not one of {', '.join(enum)}.") from None


def _checked(check: Callable[[str], object], description: str = "") -> Callable[[str], str]:
    """Return a parser of texts that `check` accepts: it returns False or raises ValueError."""

    def parse(text: str) -> str:
        if check(text) is False:
            raise ValueError(description.format(text))
        return text

    return parse


def _android_app(text: str) -> AndroidApp:
    app = parameters.android_app(text)
    canonical_sha1(app.sha1)
    return app


_grant: Final = _checked(is_grant, "{!r} is not a permission, as orders:read or billing.*:write.")
_PARSERS: Final[Mapping[str, tuple[Callable[[str], Any], bool]]] = {
    "purpose": (str, False),
    "display_name": (str, False),
    "permissions": (_grant, True),
    "allowed_ips": (_checked(check_ip_or_network), True),
    "allowed_referrers": (_checked(check_referrer), True),
    "android_apps": (_android_app, True),
    "ios_bundle_ids": (str, True),
    "api_targets": (parameters.api_target, True),
    "expire_time": (time, False),
    "ttl": (duration, False),
    "rate_limit": (parameters.rate_limit, False),
    "quota": (parameters.quota, False),
    "labels": (parameters.pair, True),
    "operator_projects": (str, True),
}
"""How each field is read, and whether it has an entry per line."""


def key_texts(key: Key) -> dict[str, str]:
    """Return the fields of a key that can be edited, as texts of the form."""
    return {
        "purpose": key.purpose,
        "permissions": "\n".join(key.permissions),
        **{name: "\n".join(texts) for name, texts in restriction_texts(key.restrictions)},
        "expire_time": exact(key.expire_time),
        "rate_limit": rate_limit_text(key.rate_limit),
        "quota": quota_text(key.quota),
        "labels": _labels_text(key.labels),
    }


def project_texts(project: Project) -> dict[str, str]:
    """Return the fields of a project that can be edited, as texts of the form."""
    return {
        "display_name": project.display_name,
        "labels": _labels_text(project.labels),
        "rate_limit": rate_limit_text(project.rate_limit),
    }


def edited(texts: Texts, initial: Texts) -> set[str]:
    """Return the fields that the form has and whose texts differ from the initial ones."""
    return {
        name
        for name, before in initial.items()
        if name in texts and lines_of(texts[name]) != lines_of(before)
    }


def changed_fields(texts: Texts, initial: Texts) -> dict[str, Any]:
    """Return the values of the fields that were edited.

    Restrictions are one field of the call, made of five lists. Raises Refused.
    """
    names = edited(texts, initial)
    reader = Reader({**initial, **texts})
    values = {name: reader.read(name) for name in names if name not in RESTRICTIONS}
    if names.intersection(RESTRICTIONS):
        values["restrictions"] = reader.restrictions()
    reader.finish()
    return values


def check(name: str, text: str) -> list[str]:
    """Return the errors of one field as it is typed, without a call to the authority."""
    reader = Reader({name: text})
    if name in _PARSERS:
        reader.read(name)
    return reader.errors.get(name, [])


def _labels_text(labels: Mapping[str, str]) -> str:
    return "\n".join(f"{name}={value}" for name, value in sorted(labels.items()))


async def submitted(request: Request) -> dict[str, str]:
    """Return the texts of a form; a field that was sent several times has several lines.

    Refuses other forms than URL-encoded ones: the parts of a multipart form name their character
    set, and that of `punycode` takes a minute for a megabyte.
    """
    kind, _, _ = request.headers.get("content-type", "").partition(";")
    if kind.strip().lower() != "application/x-www-form-urlencoded":
        raise HTTPException(415)
    texts: dict[str, str] = {}
    async with request.form() as form:
        for name, value in form.multi_items():
            text = str(value)
            texts[name] = f"{texts[name]}\n{text}" if name in texts else text
    return texts
