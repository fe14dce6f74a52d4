"""Options that several commands have: the fields of a key and of a project, and how they change."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Final, TypeVar

import click

from keyauthority._requests.arguments import request_id_or_new
from keyauthority.cli import parameters
from keyauthority.model import Restrictions

F = TypeVar("F", bound=Callable[..., Any])

RESTRICTIONS: Final = tuple(field.name for field in fields(Restrictions))
"""The lists of restrictions, each of which is an option."""

_KEY_FIELDS: Final = (
    click.option("--purpose", help="What the key is for, in words."),
    click.option("--permission", "permissions", multiple=True, metavar="RESOURCE:ACTION"),
    click.option("--allowed-ip", "allowed_ips", multiple=True, metavar="ADDRESS|CIDR"),
    click.option("--allowed-referrer", "allowed_referrers", multiple=True, metavar="URL"),
    click.option(
        "--android-app",
        "android_apps",
        multiple=True,
        type=parameters.android_app,
        metavar="PACKAGE=SHA1",
    ),
    click.option("--ios-bundle-id", "ios_bundle_ids", multiple=True, metavar="ID"),
    click.option(
        "--api-target",
        "api_targets",
        multiple=True,
        type=parameters.api_target,
        metavar="SERVICE[=METHOD,METHOD]",
    ),
    click.option(
        "--expire-time", type=parameters.time, metavar="TIME", help="As 2030-01-31T12:00:00Z."
    ),
    click.option(
        "--quota",
        type=parameters.quota,
        metavar="LIMIT/PERIOD",
        help="As 1000/day, month or total.",
    ),
)
_PROJECT_FIELDS: Final = (click.option("--display-name", help="A name for people."),)
_SHARED_FIELDS: Final = (
    click.option(
        "--rate-limit", type=parameters.rate_limit, metavar="LIMIT/PERIOD", help="As 100/1m."
    ),
    click.option(
        "--label",
        "labels",
        multiple=True,
        type=parameters.pair,
        metavar="NAME=VALUE",
        help="May be repeated.",
    ),
)


def _remember(context: click.Context, parameter: click.Parameter, value: str | None) -> str:
    request_id = request_id_or_new(value)
    context.meta["keyauthority.request_id"] = request_id  # for a command that fails
    return request_id


request_id = click.option(
    "--request-id",
    callback=_remember,
    help="A UUID that makes the command safe to repeat; a fresh one unless given.",
)


def _all(options: Sequence[Callable[[F], F]]) -> Callable[[F], F]:
    def decorated(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorated


key_fields = _all((*_KEY_FIELDS, *_SHARED_FIELDS))
"""Add an option for each field of a key that CreateKey and UpdateKey both set."""

project_fields = _all((*_PROJECT_FIELDS, *_SHARED_FIELDS))
"""Add an option for each field of a project that CreateProject and UpdateProject both set."""


def changes(clearable: Sequence[str]) -> Callable[[F], F]:
    """Add what an update has besides: fields to clear, and the etag of what was read."""
    return _all(
        (
            click.option(
                "--clear",
                "cleared",
                multiple=True,
                type=click.Choice(clearable),
                metavar="FIELD",
                help="Empty this field, as `show` names it; may be repeated.",
            ),
            click.option("--etag", default="", help="Refuse if it was changed since this etag."),
        )
    )


def changed(given: Mapping[str, Any], cleared: Sequence[str]) -> dict[str, Any]:
    """Return the fields to change, None for one to clear. A usage error if there is none."""
    fields_given = {name: value for name, value in given.items() if value not in (None, ())}
    for name in cleared:
        if name in fields_given:
            raise click.UsageError(f"{name} is given and cleared at once")
    if "labels" in fields_given:
        fields_given["labels"] = parameters.label_map(fields_given["labels"])
    changes_wanted = fields_given | dict.fromkeys(cleared)
    if not changes_wanted:
        raise click.UsageError("nothing to change: name a field, or --clear one")
    return changes_wanted
