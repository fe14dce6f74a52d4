"""`keyauthority gateway`: checks keys for Envoy, nginx, Traefik and Caddy."""

from __future__ import annotations

import asyncio
from typing import Any

import click

from keyauthority.aio import AsyncClient
from keyauthority.cli.failures import Misused, Unanswered, failed, unsent
from keyauthority.cli.logs import log_to_stderr
from keyauthority.cli.output import show
from keyauthority.cli.session import client_options, operator_key, settings
from keyauthority.endpoint.listen import Listen, parse_listen
from keyauthority.errors import InvalidArgument, KeyAuthorityError
from keyauthority.gateway.authority import UnusableKey

_OFF = "off"


@click.command()
@click.option(
    "--grpc",
    "grpc_address",
    default="127.0.0.1:9001",
    metavar="HOST:PORT",
    help="Address for Envoy, unix:PATH, or off (default: 127.0.0.1:9001).",
)
@click.option(
    "--http",
    "http_address",
    default="127.0.0.1:9002",
    metavar="HOST:PORT",
    help="Address for other proxies, unix:PATH, or off (default: 127.0.0.1:9002).",
)
@click.option(
    "--trusted-proxies",
    type=click.IntRange(min=0),
    default=0,
    metavar="N",
    help="Proxies that append to X-Forwarded-For, over HTTP (default: 0).",
)
@click.option(
    "--keep-credential", is_flag=True, help="Pass the key on to the service behind Envoy."
)
@settings
def gateway(
    grpc_address: str, http_address: str, trusted_proxies: int, keep_credential: bool
) -> None:
    """Check the keys of requests for a proxy, until SIGTERM.

    Envoy asks over gRPC (ext_authz); nginx, Traefik and Caddy ask /auth over HTTP. The operator
    key needs keys:verify, keys:read, changes:watch and usage:report. A changed operator key file is
    read without a restart.
    """
    try:
        from keyauthority.gateway import sidecar
    except ModuleNotFoundError as missing:
        if missing.name not in {"uvicorn", "httptools"}:
            raise
        raise Misused("the gateway needs more: install keyauthority[gateway]") from None
    log_to_stderr()
    sources: dict[str, str] = {}
    options = client_options(sources)
    plaintext = bool(options["allow_plaintext"])
    listening = sidecar.Settings(
        connect=lambda key: AsyncClient(**{**options, "operator_key": key}),
        read_key=_read_key,
        grpc=_listen("--grpc", grpc_address, plaintext=plaintext),
        http=_listen("--http", http_address, plaintext=plaintext),
        trusted_proxies=trusted_proxies,
        keep_credential=keep_credential,
    )
    if listening.grpc is None and listening.http is None:
        raise click.UsageError("--grpc and --http are both off: the gateway has nothing to do")
    _run(sidecar, listening, sources)


def _run(sidecar: Any, listening: Any, sources: dict[str, str]) -> None:
    def announce(ends: str) -> None:
        show(f"keyauthority gateway ready: {ends}")

    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(sidecar.run(listening, announce))
    except UnusableKey as unusable:
        raise Misused(str(unusable)) from None
    except InvalidArgument as error:
        raise unsent(error, sources) from None
    except KeyAuthorityError as error:
        text = failed(error, sources, verifying=False).format_message()
        raise Misused(text) from None
    except OSError as error:
        raise Unanswered(f"cannot listen on {error}") from None


def _read_key() -> str | None:
    try:
        return operator_key({})
    except click.UsageError as unreadable:
        raise UnusableKey(unreadable.format_message()) from None


def _listen(flag: str, text: str, *, plaintext: bool) -> Listen | None:
    """Return the address. Raises UsageError for one that other machines reach in plaintext."""
    if text == _OFF:
        return None
    try:
        address = parse_listen(text)
    except ValueError as error:
        raise click.UsageError(f"{flag}: {error}") from None
    if not (plaintext or address.is_local()):
        raise click.UsageError(
            f"{flag}: {text} can be reached from other machines, and keys would cross the network"
            " in plaintext: listen on 127.0.0.1 or unix:PATH, or add --allow-plaintext"
        )
    return address


def _loop_factory() -> Any:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop
