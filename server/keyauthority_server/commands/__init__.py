"""What the program `keyauthority-server` does, a module a family of commands.

Exit codes: 0 done, 1 failed, 2 refused: bad usage or configuration, told in one line; 3 the store
cannot be reached.
"""

from __future__ import annotations

import sys

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
from keyauthority_server.config import ConfigError
from keyauthority_server.store.base import StoreUnavailable
from keyauthority_server.supervisor import CrashLoop


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """Issue, revoke and verify API keys.

    Each flag can also be set by the environment, --log-format as KEYAUTHORITY_LOG_FORMAT, and in
    the file that --config names. Flags win over the environment, and that over the file.
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
    try:
        code = cli.main(prog_name="keyauthority-server", standalone_mode=False)
    except click.ClickException as error:
        code = _told(error.format_message(), 2)
    except ConfigError as error:
        code = _told(str(error), 2)
    except StoreUnavailable as error:
        code = _told(str(error), 3)
    except CrashLoop as error:
        code = _told(str(error), 1)
    except click.Abort:
        code = 1
    sys.exit(code)


def _told(message: str, code: int) -> int:
    say(f"keyauthority-server: {' '.join(message.split())}", err=True)
    return code
