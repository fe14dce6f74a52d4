"""`keyauthority keys update|rotate|disable|enable`."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

import click

from keyauthority.cli import options, parameters
from keyauthority.cli.output import (
    key_fields,
    print_fields,
    print_json,
    print_secret,
    show,
    time_text,
)
from keyauthority.cli.session import connected, settings, wants_json
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
@click.option("--access-key", required=True, help="Access key of the key.")
@options.key_fields
@options.changes(_CLEARABLE)
@settings
def update(access_key: str, cleared: tuple[str, ...], etag: str, **values: Any) -> None:
    """Update the given fields of a key; other fields keep their values.

    A list, including permissions and labels, is replaced as a whole.
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
@click.option("--access-key", required=True, help="Access key of the key.")
@settings
def disable(access_key: str) -> None:
    """Disable a key until it is enabled again."""
    with connected() as authority:
        written = authority.update_key(access_key, disabled=True)
    _show(written)


@click.command()
@click.option("--access-key", required=True, help="Access key of the key.")
@settings
def enable(access_key: str) -> None:
    """Enable a disabled key."""
    with connected() as authority:
        written = authority.update_key(access_key, disabled=False)
    _show(written)


def _show(written: WrittenKey) -> None:
    if wants_json():
        print_json(written_key_to_proto(written))
    else:
        print_fields(key_fields(written.key))


@click.command()
@click.option("--access-key", required=True, help="Access key of the key.")
@click.option(
    "--overlap",
    type=parameters.duration,
    metavar="DURATION",
    help="Remaining validity of the old key, 0s to 7d (default: 24h).",
)
@click.option(
    "--expire-time",
    type=parameters.time,
    metavar="TIME",
    help="Expiry of the successor (default: the lifetime of the old key, from now).",
)
@options.request_id
@settings
def rotate(
    access_key: str,
    overlap: timedelta | None,
    expire_time: datetime | None,
    request_id: str,
) -> None:
    """Replace a key by a successor with the same settings; show the new secret once."""
    with connected() as authority:
        rotated = authority.rotate_key(
            access_key, overlap=overlap, expire_time=expire_time, request_id=request_id
        )
    if wants_json():
        print_json(rotated_key_to_proto(rotated))
        return
    print_fields(key_fields(rotated.key))
    print_secret(rotated.key, rotated.secret_key)
    show(f"\n{_previous_text(rotated.previous)}")


def _previous_text(previous: Key) -> str:
    if previous.state is KeyState.ACTIVE:
        return (
            f"The old key, {previous.access_key}, works until {time_text(previous.supersede_time)}."
        )
    return f"The old key, {previous.access_key}, no longer works."
