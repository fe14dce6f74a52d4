"""`keyauthority keys update|rotate|disable|enable`."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

import click

from keyauthority.cli import options, parameters
from keyauthority.cli.formats import keeps_secret, print_result
from keyauthority.cli.output import print_secret, record_fields, show, time_text
from keyauthority.cli.session import confirm, connected, option, settings
from keyauthority.convert import rotated_key_to_proto, written_key_to_proto
from keyauthority.model import UNRESTRICTED, Key, KeyState
from keyauthority.results import WrittenKey

_CLEARABLE: Final = (
    "purpose",
    "permissions",
    "restrictions",
    *options.RESTRICTIONS,
    "expire_time",
    "rate_limit",
    "quota",
    "labels",
)


@click.command()
@options.record_id("access_key", "Access key of the key.")
@options.key_fields
@options.changes(_CLEARABLE)
@settings
def update(access_key: str, cleared: tuple[str, ...], etag: str, **values: Any) -> None:
    """Update the given fields of a key.

    Other fields keep their values. A list, including permissions and labels, is replaced
    as a whole.
    """
    fields = options.changed(values, cleared)
    lists = {name: fields.pop(name) or () for name in options.RESTRICTIONS if name in fields}
    with connected() as authority:
        if lists:
            base = UNRESTRICTED
            if "restrictions" not in fields:  # keep the other lists
                key = authority.get_key(access_key)
                base, etag = key.restrictions, etag or key.etag
            fields["restrictions"] = replace(base, **lists)
        written = authority.update_key(access_key, etag=etag, **fields)
    _show(written)


@click.command()
@options.record_id("access_key", "Access key of the key.")
@settings
def disable(access_key: str) -> None:
    """Disable a key until it is enabled again."""
    with connected() as authority:
        written = authority.update_key(access_key, disabled=True)
    _show(written)


@click.command()
@options.record_id("access_key", "Access key of the key.")
@settings
def enable(access_key: str) -> None:
    """Enable a disabled key."""
    with connected() as authority:
        written = authority.update_key(access_key, disabled=False)
    _show(written)


def _show(written: WrittenKey) -> None:
    key = written.key
    print_result(written_key_to_proto(written), record_fields(key), key.access_key)


@click.command()
@options.record_id("access_key", "Access key of the key.")
@click.option(
    "--overlap",
    type=parameters.duration,
    metavar="DURATION",
    help="Remaining validity of the old key, 0s to 7d (default: 24h).",
)
@click.option(
    "--expire-time",
    type=parameters.time_ahead,
    metavar="TIME|SPAN",
    help="Expiry of the successor (default: the lifetime of the old key, from now).",
)
@options.request_id
@options.yes
@settings
def rotate(
    access_key: str,
    overlap: timedelta | None,
    expire_time: datetime | None,
    request_id: str,
    yes: bool,
) -> None:
    """Replace a key by a successor with the same settings.

    Shows the new secret once.
    """
    keeps_secret()
    if overlap == timedelta(0):
        confirm(f"End {access_key} at once?", yes=yes)
    with connected() as authority:
        rotated = authority.rotate_key(
            access_key, overlap=overlap, expire_time=expire_time, request_id=request_id
        )
    key = rotated.key
    if print_result(rotated_key_to_proto(rotated), record_fields(key), key.access_key):
        print_secret(key, rotated.secret_key, quiet=bool(option("quiet")))
        if not option("quiet"):
            show(f"\n{_previous_text(rotated.previous)}")


def _previous_text(previous: Key) -> str:
    if previous.state is KeyState.ACTIVE:
        return (
            f"The old key, {previous.access_key}, works until {time_text(previous.supersede_time)}."
        )
    return f"The old key, {previous.access_key}, no longer works."
