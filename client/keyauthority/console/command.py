"""`keyauthority console`: serves web pages for people."""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import click

from keyauthority._address import Address
from keyauthority._channel import Tls
from keyauthority.aio import AsyncClient
from keyauthority.cli.failures import Unanswered, unsent
from keyauthority.cli.output import show
from keyauthority.cli.session import client_options, connection_settings
from keyauthority.errors import InvalidArgument

_PORT_MAX: Final = 65_535


@click.command()
@click.option(
    "--listen",
    default="127.0.0.1:8080",
    show_default=True,
    metavar="HOST:PORT",
    help="Address to serve on; port 0 picks one.",
)
@click.option(
    "--sign-in",
    is_flag=True,
    help="Require an operator key from each person, in place of a one-time link.",
)
@click.option("--tls-cert", metavar="FILE", help="Certificate chain of the console.")
@click.option("--tls-key", metavar="FILE", help="Private key of --tls-cert.")
@connection_settings
def console(listen: str, sign_in: bool, tls_cert: str | None, tls_key: str | None) -> None:
    """Serve web pages in which people manage keys.

    Prints a link that signs in once, with the operator key of the environment. With --sign-in
    each person enters an operator key. Addresses other than loopback require --sign-in and TLS.
    A client certificate for the authority is named by KEYAUTHORITY_TLS_CLIENT_CERT and _KEY, or
    by --tls-cert and --tls-key before the word console.
    """
    try:
        from keyauthority.console.serving import AddressInUse, CannotServe, Settings, serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in {"starlette", "uvicorn", "jinja2"}:
            raise
        raise click.UsageError("the console needs more: install keyauthority[console]") from None
    host, port = _listen_address(listen)
    if (tls_cert is None) != (tls_key is None):
        raise click.UsageError("give --tls-cert and --tls-key together")
    if not Address("", (host,)).is_loopback() and not (sign_in and tls_cert):
        raise click.UsageError(
            f"--listen: {host} is not loopback: add --sign-in, --tls-cert and --tls-key"
        )
    sources: dict[str, str] = {}
    options = client_options(sources)
    operator_key = options.pop("operator_key")
    if not (sign_in or operator_key or _has_certificate(options)):
        raise click.UsageError(
            "no operator key for the sign-in link: set KEYAUTHORITY_OPERATOR_KEY or"
            " KEYAUTHORITY_OPERATOR_KEY_FILE, or add --sign-in"
        )
    try:
        connect = partial(_connect, options)
        connect(operator_key)  # reads the certificates
        settings = Settings(
            host=host,
            port=port,
            connect=connect,
            address=options["address"],
            operator_key=operator_key,
            sign_in=sign_in,
            tls_cert=tls_cert,
            tls_key=tls_key,
        )
        serve(settings, show)
    except AddressInUse as error:
        raise Unanswered(f"{error}: end the other process, or choose another port") from None
    except CannotServe as error:
        raise click.UsageError(str(error)) from None
    except InvalidArgument as error:
        raise unsent(error, sources) from None


def _connect(options: dict[str, Any], operator_key: str | None) -> AsyncClient:
    return AsyncClient(operator_key=operator_key, **options)


def _has_certificate(options: dict[str, Any]) -> bool:
    tls = options["tls"]
    return isinstance(tls, Tls) and tls.cert is not None


def _listen_address(text: str) -> tuple[str, int]:
    """Return host and port of `HOST:PORT`; an IPv6 address has brackets."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (host and colon and port.isascii() and port.isdigit() and int(port) <= _PORT_MAX):
        raise click.UsageError(f"--listen: {text!r} is not HOST:PORT, as 127.0.0.1:8080")
    return host, int(port)
