"""The program `keyauthority-server`: one module per family of commands.

Commands parse flags, call `runtime`, `services` or `store`, and print; they hold no rule about
keys. Begin with `main`, which maps exceptions to exit codes, then read `serving`.

Exit codes: 0 done; 1 refused by the authority, or findings of `audit verify`; 2 wrong usage or
configuration, which a retry does not change; 3 a cause that may pass: an unreachable store, an
address or folder in use, a full disk. Codes 1 to 3 come with one line on standard error.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import click

from keyauthority_server.commands.audit import audit_group
from keyauthority_server.commands.backup import backup, restore
from keyauthority_server.commands.configuration import config_group
from keyauthority_server.commands.copy import copy
from keyauthority_server.commands.folder import init, migrate
from keyauthority_server.commands.operator import operator_group
from keyauthority_server.commands.output import say
from keyauthority_server.commands.pepper import pepper_group
from keyauthority_server.commands.serving import serve
from keyauthority_server.config import ConfigError, TransientError
from keyauthority_server.runtime.restore import RestoreRefused
from keyauthority_server.runtime.supervisor import CrashLoop
from keyauthority_server.store.interface import StoreUnavailable

DONE, REFUSED, WRONG, UNCERTAIN = range(4)  # exit codes


class OutputError(Exception):
    """Writing to standard output failed."""


class _Output(io.TextIOWrapper):
    """Standard output that raises OutputError, unlike other files."""

    def write(self, text: str, /) -> int:
        with _output():
            return super().write(text)

    def flush(self) -> None:
        with _output():
            super().flush()


@contextmanager
def _output() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(error.strerror) from error


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="keyauthority", message="keyauthority-server %(version)s")
def cli() -> None:
    """Issue, revoke and verify API keys.

    Each flag can also be set in the environment, as KEYAUTHORITY_LOG_FORMAT for --log-format, and
    in the file named by --config. Flags override the environment, which overrides the file.

    Exit codes: 0 done, 1 refused, 2 wrong usage or configuration, 3 temporary failure.
    """


for _command in (
    serve,
    init,
    migrate,
    config_group,
    audit_group,
    operator_group,
    pepper_group,
    backup,
    restore,
    copy,
):
    cli.add_command(_command)


def main() -> None:
    """Run the command line and exit."""
    if not _open_standard_streams():
        sys.exit(_print_error("standard output is closed", WRONG))
    os.umask(0o077)  # of any other umask, files would be open to others or closed to their owner
    try:
        code = cli.main(prog_name="keyauthority-server", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = WRONG
    except click.ClickException as error:
        code = _print_error(error.format_message(), error.exit_code)
    except RestoreRefused as error:
        code = _print_error(str(error), REFUSED)
    except ConfigError as error:
        code = _print_error(str(error), WRONG)
    except (CrashLoop, StoreUnavailable, TransientError) as error:
        code = _print_error(str(error), UNCERTAIN)
    except OutputError as error:
        code = _output_failed(error)
    except OSError as error:
        prefix = f"{error.filename}: " if error.filename else ""
        code = _print_error(f"{prefix}{error.strerror or error}", UNCERTAIN)
    except click.Abort as error:
        if isinstance(error.__cause__, KeyboardInterrupt):
            raise error.__cause__ from None
        code = UNCERTAIN
    sys.exit(code)


def _open_standard_streams() -> bool:
    """Make the standard streams writable; False if standard output is closed.

    A lock or database could otherwise get the number of a closed descriptor, and later output
    would be written into it. A character that the terminal's encoding lacks is escaped.
    """
    is_open = sys.stdout is not None
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - until the end
    if is_open:
        encoding = sys.stdout.encoding
        sys.stdout = _Output(sys.stdout.detach(), encoding, errors="backslashreplace")  # type: ignore[union-attr]
        sys.__stdout__ = sys.stdout  # type: ignore[misc]  # of which the width of the terminal is asked
    return is_open


def _output_failed(error: OutputError) -> int:
    """Silence standard output and print the reason, unless the reader closed the pipe."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # flushed at exit
    if isinstance(error.__cause__, BrokenPipeError):
        return UNCERTAIN
    return _print_error(f"cannot write to standard output: {error}", UNCERTAIN)


def _print_error(message: str, code: int) -> int:
    with suppress(OSError):
        say(f"keyauthority-server: {' '.join(message.split())}", err=True)
    return code
