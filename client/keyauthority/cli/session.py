"""Options of every command (address, TLS, timeout, output) and its connection."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from keyauthority._channel import DEFAULT_ADDRESS, Tls
from keyauthority.cli import parameters
from keyauthority.cli.failures import Interrupted, NotConfirmed, failed, unsent
from keyauthority.cli.options import together
from keyauthority.client import Client
from keyauthority.errors import InvalidArgument, KeyAuthorityError
from keyauthority.model import KeyKind
from keyauthority.secret_files import warn_if_open
from keyauthority.token import SecretKey, find_tokens, parse

F = TypeVar("F", bound=Callable[..., Any])

FORMATS: Final = ("table", "json", "jsonl", "csv", "name")
"""The forms of a result."""
PAGE_SIZE: Final = 1000  # the maximum, for the fewest calls per list

_SECRET_MAX: Final = 1 << 20  # bytes; above any token, and above the server's limit
_ADDRESS_VARIABLE: Final = "KEYAUTHORITY_ADDRESS"
_KEY_VARIABLE: Final = "KEYAUTHORITY_OPERATOR_KEY"
_KEY_FILE_VARIABLE: Final = "KEYAUTHORITY_OPERATOR_KEY_FILE"
# KEYAUTHORITY_TLS_CERT and _KEY belong to the server, which may share the environment.
_TLS_FILES: Final = (
    ("--tls-ca", "KEYAUTHORITY_TLS_CA", "Trusted root certificates"),
    ("--tls-cert", "KEYAUTHORITY_TLS_CLIENT_CERT", "Client certificate chain"),
    ("--tls-key", "KEYAUTHORITY_TLS_CLIENT_KEY", "Private key of the client certificate"),
)
_YES: Final = frozenset({"true", "1", "yes"})
_NO: Final = frozenset({"false", "0", "no", ""})


def root_settings(command: F) -> F:
    """Add the options of `settings` to the root command, whose help shows all of them."""
    return _with_settings(command, hidden=False)


def settings(command: F) -> F:
    """Add the options accepted after any part of a command; the last value wins.

    The help shows those of the connection once, at the root.
    """
    return _with_settings(command, hidden=True)


def _with_settings(command: F, *, hidden: bool) -> F:
    shown = (
        _option(
            "--output",
            "Form of the result (default: table); name prints bare ids.",
            names=("-o",),
            type=click.Choice(FORMATS),
        ),
        _switch_option("--json", "The same as -o json."),
        _option("--field", "Print only this field, by its JSON name.", metavar="NAME"),
        _switch_option("--quiet", "Print results only, no sentences."),
    )
    return together(*shown, *_connection_options(_TLS_FILES, hidden=hidden))(command)


def connection_settings(command: F) -> F:
    """Add the options of the connection, for a command with a certificate of its own.

    Its --tls-cert and --tls-key are its own; those of the connection stand before its name.
    """
    return together(*_connection_options(_TLS_FILES[:1], hidden=False))(command)


def _connection_options(
    tls_files: Sequence[tuple[str, str, str]], *, hidden: bool
) -> tuple[Callable[[F], F], ...]:
    return (
        _option(
            "--timeout",
            "Timeout of a call (default: 5s).",
            type=parameters.duration,
            hidden=hidden,
        ),
        _option(
            "--address",
            "Address of the authority, or unix:PATH (default: $KEYAUTHORITY_ADDRESS, else"
            " 127.0.0.1:50051).",
            metavar="HOST:PORT",
            hidden=hidden,
        ),
        _switch_option(
            "--tls",
            "Use TLS; implied by the files below (default: $KEYAUTHORITY_TLS).",
            hidden=hidden,
        ),
        *(
            _option(flag, f"{subject} (default: ${variable}).", metavar="FILE", hidden=hidden)
            for flag, variable, subject in tls_files
        ),
        _switch_option(
            "--allow-plaintext",
            "Allow plaintext to another machine (default: $KEYAUTHORITY_ALLOW_PLAINTEXT).",
            hidden=hidden,
        ),
    )


def _option(flag: str, text: str, names: Sequence[str] = (), **attributes: Any) -> Callable[[F], F]:
    return click.option(
        *names, flag, expose_value=False, callback=_remember, help=text, **attributes
    )


def _switch_option(flag: str, text: str, **attributes: Any) -> Callable[[F], F]:
    return _option(flag, text, is_flag=True, default=None, **attributes)


def _remember(context: click.Context, parameter: click.Parameter, value: object) -> None:
    if value is not None:
        context.meta[f"keyauthority.{parameter.name}"] = value  # shared by all parts of the command


def option(name: str) -> Any:
    """Return the value of an option that every command has; None if it is not given."""
    meta = click.get_current_context().meta
    if name == "output" and meta.get("keyauthority.json"):
        return "json"
    return meta.get(f"keyauthority.{name}")


def wants_json() -> bool:
    """Return True if the response is to be printed as JSON."""
    return option("output") in ("json", "jsonl")


def confirm(question: str, *, yes: bool) -> None:
    """Ask on a terminal before an action that cannot be undone; elsewhere do not ask."""
    if yes or sys.stdin is None or not sys.stdin.isatty():
        return
    if not click.confirm(question, err=True):
        raise NotConfirmed


@contextmanager
def connected(*, verifying: bool = False, by_secret: bool = False) -> Iterator[Client]:
    """Yield a connected client; a failed call ends the command.

    `verifying`: the result of the command is a verdict. `by_secret`: the credential of the call is
    the secret key from standard input.
    """
    sources: dict[str, str] = {}
    options = client_options(sources)
    try:
        with Client(**options) as client:
            yield client
    except InvalidArgument as error:
        if error.reason is None:  # rejected by this library before sending
            raise unsent(error, sources) from error
        raise failed(error, sources, verifying=verifying) from error
    except KeyAuthorityError as error:
        if by_secret:
            del sources["operator_key"]
        raise failed(error, sources, verifying=verifying) from error
    except KeyboardInterrupt:
        raise Interrupted from None


def client_options(sources: dict[str, str]) -> dict[str, Any]:
    """Return the arguments of a client; `sources` receives the option or variable of each."""
    timeout = option("timeout")
    options: dict[str, Any] = {
        "address": _address(sources),
        "operator_key": operator_key(sources),
        "tls": _tls(sources),
        "allow_plaintext": _switch("allow_plaintext"),
    }
    if timeout is not None:
        if timeout <= timedelta(0):
            raise click.UsageError("--timeout: must be more than 0")
        options["timeout"] = timeout.total_seconds()
    return options


def _address(sources: dict[str, str]) -> str:
    flag = option("address")
    variable = os.environ.get(_ADDRESS_VARIABLE, "").strip()
    address: str = flag or variable or DEFAULT_ADDRESS
    if flag:
        sources["address"] = "--address"
    elif variable:
        sources["address"] = _ADDRESS_VARIABLE
    else:
        sources["address"] = f"the default; --address or {_ADDRESS_VARIABLE} names another"
    sources["given address"] = address
    return address


def _tls(sources: dict[str, str]) -> Tls | bool:
    files: list[str | None] = []
    for flag, variable, _ in _TLS_FILES:
        given = option(flag.removeprefix("--").replace("-", "_"))
        files.append(given or os.environ.get(variable) or None)
        sources[f"tls.{flag.removeprefix('--tls-')}"] = flag if given else variable
    ca, cert, key = files
    if ca or cert or key:
        return Tls(ca=ca, cert=cert, key=key)
    return _switch("tls")


def _switch(name: str) -> bool:
    """Return the flag, or the environment variable of the same name."""
    variable = f"KEYAUTHORITY_{name.upper()}"
    text = os.environ.get(variable, "").strip().lower()
    if option(name):
        return True
    if text not in _YES | _NO:
        raise click.UsageError(f"{variable} must be true or false")
    return text in _YES


def operator_key(sources: dict[str, str]) -> SecretKey | None:
    """Return the operator key of the environment, or None. Raises UsageError for a bad file."""
    key, file = os.environ.get(_KEY_VARIABLE, "").strip(), os.environ.get(_KEY_FILE_VARIABLE)
    sources["operator_key"] = _KEY_FILE_VARIABLE if file else _KEY_VARIABLE
    if key and file:
        raise click.UsageError(f"set {_KEY_VARIABLE} or {_KEY_FILE_VARIABLE}, not both")
    if file:
        if next(find_tokens(file), None):
            raise click.UsageError(
                f"{_KEY_FILE_VARIABLE}: holds a key, not the path of a file: set {_KEY_VARIABLE}"
            )
        try:
            key = Path(file).read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            cause = error.strerror if isinstance(error, OSError) else "it holds no operator key"
            raise click.UsageError(f"{_KEY_FILE_VARIABLE}: {file}: {cause}") from None
        if not key:
            raise click.UsageError(f"{_KEY_FILE_VARIABLE}: {file}: the file is empty")
        if not wants_json():  # standard error may hold an error in JSON
            warn_if_open(file)
    sources["credential"] = _why_invalid(key, is_variable=not file)
    return SecretKey(key) if key else None


def _why_invalid(key: str, *, is_variable: bool) -> str:
    """Return the likeliest reason for which the authority refuses an operator key."""
    token = parse(key)
    if token is not None and token.kind is KeyKind.OPERATOR:
        return "it was revoked, has expired, or belongs to another authority"
    if is_variable and "/" in key:
        return f"it is the path of a file, which belongs in {_KEY_FILE_VARIABLE}"
    return "it is not an operator key, which begins with op_live_ or PREFIX_op_live_"


def read_secret() -> SecretKey:
    """Return the token from the first line of standard input, or from a hidden prompt.

    Surrounding white space is stripped.
    """
    if sys.stdin is None:
        raise click.UsageError("the secret key is read from standard input, which is closed")
    if sys.stdin.isatty():
        return SecretKey(click.prompt("Secret key", hide_input=True, err=True).strip())
    line = sys.stdin.buffer.readline(_SECRET_MAX)
    return SecretKey(line.decode("utf-8", "replace").strip())
