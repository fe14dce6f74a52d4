"""Options shared by commands: the fields of keys and projects, and their updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import wraps
from typing import Any, Final, TypeVar, cast

import click

from keyauthority._requests.arguments import request_id_or_new
from keyauthority.cli import parameters
from keyauthority.model import Restrictions

F = TypeVar("F", bound=Callable[..., Any])

RESTRICTIONS: Final = tuple(field.name for field in fields(Restrictions))
"""The lists of restrictions; each has an option."""

_KEY_FIELDS: Final = (
    click.option("--purpose", help="Description of the key."),
    click.option(
        "--permission",
        "permissions",
        multiple=True,
        metavar="RESOURCE:ACTION",
        help="Granted permission, e.g. orders:read.",
    ),
    click.option(
        "--allowed-ip",
        "allowed_ips",
        multiple=True,
        metavar="ADDRESS|CIDR",
        help="Allowed client address (default: all), e.g. 10.0.0.0/8.",
    ),
    click.option(
        "--allowed-referrer",
        "allowed_referrers",
        multiple=True,
        metavar="URL",
        help="Allowed referrer (default: all), e.g. https://*.shop.example/*.",
    ),
    click.option(
        "--android-app",
        "android_apps",
        multiple=True,
        type=parameters.android_app,
        metavar="PACKAGE=SHA1",
        help="Allowed Android app (default: all).",
    ),
    click.option(
        "--ios-bundle-id",
        "ios_bundle_ids",
        multiple=True,
        metavar="ID",
        help="Allowed iOS bundle (default: all).",
    ),
    click.option(
        "--api-target",
        "api_targets",
        multiple=True,
        type=parameters.api_target,
        metavar="SERVICE[=METHOD,METHOD]",
        help="Allowed API service and methods (default: all).",
    ),
    click.option(
        "--expire-time",
        type=parameters.time_ahead,
        metavar="TIME|SPAN",
        help="Expiry (default: never), e.g. 2030-01-31T12:00:00Z.",
    ),
    click.option(
        "--quota",
        type=parameters.quota,
        metavar="LIMIT/PERIOD",
        help="Quota per day, month or total (default: none), e.g. 1000/day.",
    ),
)
_PROJECT_FIELDS: Final = (click.option("--display-name", help="Display name."),)
_SHARED_FIELDS: Final = (
    click.option(
        "--rate-limit",
        type=parameters.rate_limit,
        metavar="LIMIT/PERIOD",
        help="Rate limit (default: none), e.g. 100/1m.",
    ),
    click.option(
        "--label",
        "labels",
        multiple=True,
        type=parameters.pair,
        metavar="NAME=VALUE",
        help="Label; may be repeated.",
    ),
)


def _remember(context: click.Context, parameter: click.Parameter, value: str | None) -> str:
    request_id = request_id_or_new(value)
    context.meta["keyauthority.request_id"] = request_id  # read by `failures.how_to_repeat`
    return request_id


request_id = click.option(
    "--request-id",
    callback=_remember,
    help="Idempotency UUID; repeat it to repeat the command safely (default: random).",
)


def together(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Return a decorator that adds options to a command, in this order in its help."""

    def decorated(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorated


def record_id(name: str, text: str, *, required: bool = True) -> Callable[[F], F]:
    """Add a positional id and the option of the same name; the command takes either."""
    flag = f"--{name.replace('_', '-')}"

    def decorated(command: F) -> F:
        @wraps(command)
        def merged(*args: Any, **kwargs: Any) -> Any:
            given = {kwargs.pop(f"{name}_argument"), kwargs[name]} - {None}
            if len(given) > 1:
                raise click.UsageError(f"two ids: give {name.upper()} or {flag}")
            if required and not given:
                raise click.UsageError(f"no id: give {name.upper()} or {flag}")
            kwargs[name] = given.pop() if given else None
            return command(*args, **kwargs)

        argument = click.argument(f"{name}_argument", metavar=f"[{name.upper()}]", required=False)
        return cast("F", click.option(flag, help=text)(argument(merged)))

    return decorated


yes = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")

key_fields = together(*_KEY_FIELDS, *_SHARED_FIELDS)
"""Add an option for each field of a key that CreateKey and UpdateKey both set."""

project_fields = together(*_PROJECT_FIELDS, *_SHARED_FIELDS)
"""Add an option for each field of a project that CreateProject and UpdateProject both set."""


def changes(clearable: Sequence[str]) -> Callable[[F], F]:
    """Add the options --clear and --etag of an update."""
    return together(
        click.option(
            "--clear",
            "cleared",
            multiple=True,
            type=click.Choice(clearable),
            metavar="FIELD",
            help="Field to clear, as named by `show`; may be repeated.",
        ),
        click.option(
            "--etag", default="", help="Expected etag; fail if the record has changed since."
        ),
    )


def changed(values: Mapping[str, Any], cleared: Sequence[str]) -> dict[str, Any]:
    """Return the fields to change; None clears a field. Raises UsageError if there are none."""
    updates = {name: value for name, value in values.items() if value not in (None, ())}
    for name in cleared:
        if name in updates:
            raise click.UsageError(f"{name} is given and cleared at once")
    if "labels" in updates:
        updates["labels"] = parameters.label_map(updates["labels"])
    updates |= dict.fromkeys(cleared)
    if not updates:
        raise click.UsageError("nothing to change: name a field, or --clear one")
    return updates
