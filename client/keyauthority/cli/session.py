"""What every command shares: where the authority is, as whom to call it, and how to print."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from keyauthority._channel import Tls
from keyauthority.cli import parameters
from keyauthority.client import Client
from keyauthority.errors import InvalidArgument, KeyAuthorityError
from keyauthority.token import SecretKey

F = TypeVar("F", bound=Callable[..., Any])

PAGE_SIZE: Final = 1000  # the most that a page may hold: the fewest calls for a whole list

_SECRET_MAX: Final = 1 << 20  # bytes; more than any token, and than the server takes
_KEY_VARIABLE: Final = "KEYAUTHORITY_OPERATOR_KEY"
_KEY_FILE_VARIABLE: Final = "KEYAUTHORITY_OPERATOR_KEY_FILE"
# Not KEYAUTHORITY_TLS_CERT and _KEY: those are the server's own, in the same environment at times.
_TLS_FILES: Final = (
    ("--tls-ca", "KEYAUTHORITY_TLS_CA", "Who may vouch for the authority"),
    ("--tls-cert", "KEYAUTHORITY_TLS_CLIENT_CERT", "Client certificate to show"),
    ("--tls-key", "KEYAUTHORITY_TLS_CLIENT_KEY", "The key to it"),
)
_YES: Final = frozenset({"true", "1", "yes"})
_NO: Final = frozenset({"false", "0", "no", ""})


class Failed(click.ClickException):
    """A call that the authority refused, or that did not reach it."""

    exit_code = 1

    def __init__(self, error: KeyAuthorityError) -> None:
        reason = f" ({error.reason})" if error.reason else ""
        super().__init__(f"{error.message or 'no reason given'}{reason} [{error.status}]")


class CannotTell(Failed):
    """A verification that failed: neither valid nor denied."""

    exit_code = 2


def settings(command: F) -> F:
    """Add the options that stand behind any part of the command; the last given holds."""
    options = (
        _switch_option("--json", "Print the answer as the proto's JSON."),
        _option(
            "--timeout",
            "How long to wait for an answer: 5s unless given.",
            type=parameters.duration,
        ),
        _option(
            "--address",
            "Where the authority is, or unix:PATH; else KEYAUTHORITY_ADDRESS, else"
            " 127.0.0.1:50051.",
            metavar="HOST:PORT",
        ),
        _switch_option(
            "--tls", "Use TLS, as any of the next three does; else KEYAUTHORITY_TLS=true."
        ),
        *(
            _option(flag, f"{what}; else {variable}.", metavar="FILE")
            for flag, variable, what in _TLS_FILES
        ),
        _switch_option(
            "--allow-plaintext",
            "Send keys in plaintext beyond this machine; else KEYAUTHORITY_ALLOW_PLAINTEXT=true.",
        ),
    )
    for option in reversed(options):  # click shows the last that was added first
        command = option(command)
    return command


def _option(flag: str, text: str, **how: Any) -> Callable[[F], F]:
    return click.option(flag, expose_value=False, callback=_remember, help=text, **how)


def _switch_option(flag: str, text: str) -> Callable[[F], F]:
    return _option(flag, text, is_flag=True, default=None)


def _remember(context: click.Context, parameter: click.Parameter, value: object) -> None:
    if value is not None:
        context.meta[f"keyauthority.{parameter.name}"] = value  # meta is shared by the whole line


def wants_json() -> bool:
    """True if the answer is to be printed as JSON."""
    return bool(click.get_current_context().meta.get("keyauthority.json"))


@contextmanager
def connected(failure: type[Failed] = Failed) -> Iterator[Client]:
    """Give a client; a call that fails ends the command with `failure`."""
    meta = click.get_current_context().meta
    address = meta.get("keyauthority.address") or os.environ.get("KEYAUTHORITY_ADDRESS")
    timeout = meta.get("keyauthority.timeout")
    options: dict[str, Any] = {
        "operator_key": _operator_key(),
        "tls": _tls(),
        "allow_plaintext": _switch("allow_plaintext"),
    }
    if address:
        options["address"] = address
    if timeout is not None:
        options["timeout"] = timeout.total_seconds()
    try:
        with Client(**options) as client:
            yield client
    except InvalidArgument as error:
        if error.reason is None:  # refused here, before it was sent
            raise click.UsageError(error.message) from None
        raise failure(error) from None
    except KeyAuthorityError as error:
        raise failure(error) from None


def _tls() -> Tls | bool:
    meta = click.get_current_context().meta
    names = [flag.removeprefix("--").replace("-", "_") for flag, _, _ in _TLS_FILES]
    ca, cert, key = (
        meta.get(f"keyauthority.{name}") or os.environ.get(variable) or None
        for name, (_, variable, _) in zip(names, _TLS_FILES, strict=True)
    )
    if ca or cert or key:
        return Tls(ca=ca, cert=cert, key=key)
    return _switch("tls")


def _switch(name: str) -> bool:
    """Return what the flag says, else what the variable of its name does."""
    variable = f"KEYAUTHORITY_{name.upper()}"
    text = os.environ.get(variable, "").lower()
    if click.get_current_context().meta.get(f"keyauthority.{name}"):
        return True
    if text not in _YES | _NO:
        raise click.UsageError(f"{variable} must be true or false")
    return text in _YES


def _operator_key() -> SecretKey | None:
    key, file = os.environ.get(_KEY_VARIABLE), os.environ.get(_KEY_FILE_VARIABLE)
    if key and file:
        raise click.UsageError(f"set {_KEY_VARIABLE} or {_KEY_FILE_VARIABLE}, not both")
    if file:
        try:
            key = Path(file).read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            cause = error.strerror if isinstance(error, OSError) else "it holds no operator key"
            raise click.UsageError(f"{_KEY_FILE_VARIABLE}: {file}: {cause}") from None
    return SecretKey(key) if key else None


def read_secret() -> SecretKey:
    """Return the token from the first line of standard input, or from a prompt that hides it."""
    if sys.stdin is None:
        raise click.UsageError("the secret key is read from standard input, which is closed")
    if sys.stdin.isatty():
        return SecretKey(click.prompt("Secret key", hide_input=True, err=True))
    line = sys.stdin.buffer.readline(_SECRET_MAX)
    return SecretKey(line.decode("utf-8", "replace").rstrip("\r\n"))
