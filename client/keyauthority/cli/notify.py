"""`keyauthority notify`: sends changes to a webhook."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from keyauthority.aio import AsyncClient
from keyauthority.cli.failures import Misused, Unanswered, failed, unsent
from keyauthority.cli.logs import log_to_stderr
from keyauthority.cli.output import show
from keyauthority.cli.session import client_options, operator_key, settings
from keyauthority.endpoint.listen import Listen, parse_listen
from keyauthority.errors import InvalidArgument, KeyAuthorityError
from keyauthority.notify.settings import (
    CannotListen,
    CannotNotify,
    CursorFailed,
    ReceiverGone,
    Settings,
)


@click.command()
@click.option("--webhook", required=True, metavar="URL", help="URL of the receiver.")
@click.option(
    "--secret-file",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File of the signing secrets, whsec_ and base64, one per line.",
)
@click.option(
    "--cursor-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="File of the position and the pending events (default: none, begin with now).",
)
@click.option(
    "--allow-private", is_flag=True, help="Allow a receiver at an address that is not public."
)
@click.option(
    "--metrics",
    "metrics_address",
    metavar="HOST:PORT",
    help="Address of Prometheus metrics, or unix:PATH (default: none).",
)
@settings
def notify(
    webhook: str,
    secret_file: Path,
    cursor_file: Path | None,
    allow_private: bool,
    metrics_address: str | None,
) -> None:
    """Send each change and opening advisory to a webhook.

    Runs until SIGTERM. Events are signed as Standard Webhooks 1.0 says, repeated until the receiver
    answers 2xx, and not lost by a kill if there is a cursor file. The operator key needs
    changes:watch and usage:read. Changed files of the operator key and of the secrets are read
    without a restart. Exit code 1: the receiver answered 410 Gone.
    """
    try:
        from keyauthority.notify import sender
    except ModuleNotFoundError as missing:
        if missing.name not in {"httpcore", "anyio", "httptools", "uvicorn"}:
            raise
        raise Misused("notify needs more: install keyauthority[notify]") from None
    log_to_stderr()
    sources: dict[str, str] = {}
    options = client_options(sources)
    sending = Settings(
        connect=lambda key: AsyncClient(**{**options, "operator_key": key}),
        read_key=_read_key,
        webhook=webhook,
        secret_file=secret_file,
        cursor_file=cursor_file,
        allow_private=allow_private,
        allow_plaintext=bool(options["allow_plaintext"]),
        metrics=_listen(metrics_address),
    )
    try:
        asyncio.run(sender.run(sending, lambda: show("keyauthority notify ready")))
    except CannotNotify as unusable:
        raise Misused(str(unusable)) from None
    except (CursorFailed, CannotListen) as failure:
        raise Unanswered(str(failure)) from None
    except ReceiverGone as gone:
        raise click.ClickException(str(gone)) from None
    except InvalidArgument as error:
        raise unsent(error, sources) from None
    except KeyAuthorityError as error:
        raise Misused(failed(error, sources, verifying=False).format_message()) from None


def _read_key() -> str | None:
    try:
        return operator_key({})
    except click.UsageError as unreadable:
        raise CannotNotify(unreadable.format_message()) from None


def _listen(text: str | None) -> Listen | None:
    if text is None:
        return None
    try:
        return parse_listen(text)
    except ValueError as error:
        raise click.UsageError(f"--metrics: {error}") from None
