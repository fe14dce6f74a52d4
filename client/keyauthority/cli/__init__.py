"""The command line `keyauthority`: the client library for people and scripts. Extra `cli`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and exit."""
    try:
        from keyauthority.cli.app import run
    except ModuleNotFoundError as error:
        if error.name not in {"click", "rich"}:
            raise
        sys.exit("keyauthority: the command line needs more: install keyauthority[cli]")
    sys.exit(run())
