"""The root command, error messages of one line, and exit codes."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

import click

from keyauthority import __version__
from keyauthority.cli.advisories import advisories
from keyauthority.cli.audit import audit
from keyauthority.cli.caller import whoami
from keyauthority.cli.failures import CANNOT_TELL, INTERRUPTED, MISUSED, as_json
from keyauthority.cli.gateway import gateway
from keyauthority.cli.health import health
from keyauthority.cli.keys import keys
from keyauthority.cli.notify import notify
from keyauthority.cli.output import discard, say
from keyauthority.cli.projects import projects
from keyauthority.cli.scan import scan
from keyauthority.cli.session import root_settings
from keyauthority.cli.tokens import project_id, verify
from keyauthority.cli.usage import usage
from keyauthority.cli.watch import watch
from keyauthority.console.command import console
from keyauthority.text import one_line
from keyauthority.token import TOKEN_PATTERN

_READER_GONE: Final = 141  # 128 + SIGPIPE


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__)
@root_settings
def authority() -> None:
    """Issue, revoke and verify API keys at a Key Authority.

    The options below may also stand after any command.

    The operator key is read from KEYAUTHORITY_OPERATOR_KEY, or from the file named by
    KEYAUTHORITY_OPERATOR_KEY_FILE. Secrets are read from standard input or a prompt, never from
    arguments. Exit codes: 0 success, 1 rejected by the authority, 2 wrong usage or configuration,
    3 authority unreachable or outcome unknown.
    """


for _command in (
    *(projects, keys, verify, project_id, usage, audit, advisories, watch, whoami, health, scan),
    *(gateway, console, notify),
):
    authority.add_command(_command)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code (default: the arguments of the process)."""
    if sys.stdout is None:
        say("keyauthority: standard output is closed: open it to see the result")
        return MISUSED
    try:
        code = authority.main(arguments, prog_name="keyauthority", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as no_arguments:
        say(no_arguments.format_message())
        return MISUSED
    except click.ClickException as failed:
        command = (
            failed.ctx.command_path if isinstance(failed, click.UsageError) and failed.ctx else ""
        )
        if _wants_json(sys.argv[1:] if arguments is None else arguments):
            say(as_json(failed, _message(failed)))
        else:
            say(f"{command or 'keyauthority'}: {_message(failed)}")
        return failed.exit_code
    except click.Abort:
        say("keyauthority: interrupted")
        return INTERRUPTED
    except SystemExit:  # raised by click when the reader of the output is gone
        return _READER_GONE
    except OSError as failed:
        discard(sys.stdout)
        say(f"keyauthority: cannot write the answer: {failed.strerror}")
        return CANNOT_TELL
    except Exception:  # noqa: BLE001 - Python would exit with 1, which means "rejected"
        say(traceback.format_exc())
        return CANNOT_TELL
    return code if isinstance(code, int) else 0


def _wants_json(arguments: Sequence[str]) -> bool:
    """True if the arguments ask for JSON; a failure may come before they are parsed."""
    given = {f"{first} {second}" for first, second in pairwise(arguments)} | set(arguments)
    spelled = ("-o {}", "-o{}", "--output {}", "--output={}")
    return "--json" in given or any(
        text.format(form) in given for text in spelled for form in ("json", "jsonl")
    )


def _message(failed: click.ClickException) -> str:
    """Return the message on one line, with any token redacted."""
    text, tokens = TOKEN_PATTERN.subn("**********", failed.format_message())
    redacted = one_line(" ".join(text.split()))  # afterwards: an escape would join a token
    if tokens and isinstance(failed, click.UsageError):
        return f"{redacted}: a secret key is read from standard input or a prompt"
    return redacted
