"""`operator create`: create an operator key with access to the data folder alone."""

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
from keyauthority_server.commands.options import ISSUE, STORE, load, options
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
        raise click.BadParameter(f"{text!r} is not a number followed by d, h, m or s.")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


@click.group("operator")
def operator_group() -> None:
    """Create operator keys on the server's machine."""


@operator_group.command()
@options(*STORE, *ISSUE)
@click.option(
    "--permission",
    "permissions",
    metavar="PERMISSION",
    multiple=True,
    default=("*:*",),
    help="Permission of the key; repeatable.  [default: *:*]",
)
@click.option(
    "--operator-project",
    "operator_projects",
    metavar="PROJECT_ID",
    multiple=True,
    help="Project the key is confined to; repeatable.  [default: all]",
)
@click.option("--purpose", metavar="TEXT", default="", help="Purpose of the key.")
@click.option(
    "--ttl",
    type=_span,
    metavar="DURATION",
    help="Lifetime, such as 90d, 12h, 30m or 10s.  [default: no expiry]",
)
def create(
    permissions: tuple[str, ...],
    operator_projects: tuple[str, ...],
    purpose: str,
    ttl: timedelta | None,
    **flags: str | bool | None,
) -> None:
    """Create an operator key and print its secret once.

    A server may run.
    """
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
    except KeyAuthorityError as error:
        raise click.ClickException(str(error)) from error
    say(f"created {created.key.access_key}; its secret is shown only once:", err=True)
    click.echo(created.secret_key.reveal())


async def _create(settings: Config, request: pb.CreateKeyRequest) -> CreatedKey:
    async with open_admin(settings) as session:
        new = convert.new_key_from_proto(request)
        return await create_operator(session.store, session.peppers, new, settings.token_prefix)
