"""`operator create`: an operator key for whoever has the data folder, when no other will do."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from typing import Final

import click

from keyauthority import convert
from keyauthority.errors import KeyAuthorityError
from keyauthority.results import CreatedKey
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority.v1 import key_pb2
from keyauthority_server.commands.options import STORE, load, options
from keyauthority_server.commands.output import say
from keyauthority_server.config import Config
from keyauthority_server.rpc.validate import create_key
from keyauthority_server.runtime.bootstrap import open_admin
from keyauthority_server.services.local_admin import create_operator

_UNITS: Final = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_SPAN: Final = re.compile(r"([0-9]{1,9})([dhms])", re.ASCII)  # 9 digits: within timedelta


def _span(text: str) -> timedelta:
    match = _SPAN.fullmatch(text)
    if match is None:
        raise click.BadParameter(f"{text!r} is not a number with d, h, m or s behind it.")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


@click.group("operator")
def operator_group() -> None:
    """Make operator keys on the machine itself."""


@operator_group.command()
@options(*STORE)
@click.option(
    "--permission",
    "permissions",
    metavar="PERMISSION",
    multiple=True,
    default=("*:*",),
    help="May be repeated.  [default: *:*]",
)
@click.option(
    "--operator-project",
    "operator_projects",
    metavar="PROJECT_ID",
    multiple=True,
    help="Confine it to this project; may be repeated.",
)
@click.option("--purpose", metavar="TEXT", default="", help="What it is for.")
@click.option("--ttl", type=_span, metavar="DURATION", help="As 90d, 12h, 30m or 10s.")
def create(
    permissions: tuple[str, ...],
    operator_projects: tuple[str, ...],
    purpose: str,
    ttl: timedelta | None,
    **flags: str | bool | None,
) -> None:
    """Make an operator key and print its secret, once: beside a running server, too."""
    settings = load(flags)
    request = pb.CreateKeyRequest(
        kind=key_pb2.KEY_KIND_OPERATOR,
        permissions=permissions,
        operator_projects=operator_projects,
        purpose=purpose,
    )
    if ttl is not None:
        request.ttl.FromTimedelta(ttl)
    violations = create_key(request)
    if violations:
        raise click.ClickException(f"{violations[0].field}: {violations[0].description}")
    try:
        created = asyncio.run(_create(settings, request))
    except KeyAuthorityError as refused:
        raise click.ClickException(str(refused)) from refused
    say(f"made {created.key.access_key}; its secret is shown only now:", err=True)
    click.echo(created.secret_key.reveal())


async def _create(settings: Config, request: pb.CreateKeyRequest) -> CreatedKey:
    async with open_admin(settings) as machine:
        new = convert.new_key_from_proto(request)
        return await create_operator(machine.store, machine.peppers, new)
