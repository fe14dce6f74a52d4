"""`keyauthority keys update|rotate|disable|enable`: what changes keys and does not end them."""

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
@click.option("--access-key", required=True)
@options.key_fields
@options.changes(_CLEARABLE)
@settings
def update(access_key: str, cleared: tuple[str, ...], etag: str, **given: Any) -> None:
    """Change what is given of a key, and leave the rest.

    A list, permissions and labels among them, becomes what is given of it: no entry is added to
    those that it has.
    """
    fields = options.changed(given, cleared)
    lists = {name: fields.pop(name) or () for name in options.RESTRICTIONS if name in fields}
    with connected() as authority:
        if lists:
            base = UNRESTRICTED
            if "restrictions" not in fields:  # the other lists stay as they are
                key = authority.get_key(access_key)
                base, etag = key.restrictions, etag or key.etag
            fields["restrictions"] = replace(base, **lists)
        written = authority.update_key(access_key, etag=etag, **fields)
    _show(written)


@click.command()
@click.option("--access-key", required=True)
@settings
def disable(access_key: str) -> None:
    """Switch a key off, until it is enabled."""
    with connected() as authority:
        written = authority.update_key(access_key, disabled=True)
    _show(written)


@click.command()
@click.option("--access-key", required=True)
@settings
def enable(access_key: str) -> None:
    """Switch a disabled key on again."""
    with connected() as authority:
        written = authority.update_key(access_key, disabled=False)
    _show(written)


def _show(written: WrittenKey) -> None:
    if wants_json():
        print_json(written_key_to_proto(written))
    else:
        print_fields(key_fields(written.key))


@click.command()
@click.option("--access-key", required=True)
@click.option(
    "--overlap",
    type=parameters.duration,
    metavar="DURATION",
    help="How long the old key works on: 24h unless given, 7d at most, 0s not at all.",
)
@click.option(
    "--expire-time",
    type=parameters.time,
    metavar="TIME",
    help="The successor's end; unless given, after as long a life as the old key's.",
)
@options.request_id
@settings
def rotate(
    access_key: str,
    overlap: timedelta | None,
    expire_time: datetime | None,
    request_id: str,
) -> None:
    """Replace a key by a successor with all its settings, and show the new secret, once."""
    with connected() as authority:
        rotated = authority.rotate_key(
            access_key, overlap=overlap, expire_time=expire_time, request_id=request_id
        )
    if wants_json():
        print_json(rotated_key_to_proto(rotated))
        return
    print_fields(key_fields(rotated.key))
    print_secret(rotated.key, rotated.secret_key)
    show(f"\n{_end_of(rotated.previous)}")


def _end_of(previous: Key) -> str:
    if previous.state is KeyState.ACTIVE:
        return (
            f"The old key, {previous.access_key}, works until {time_text(previous.supersede_time)}."
        )
    return f"The old key, {previous.access_key}, no longer works."
