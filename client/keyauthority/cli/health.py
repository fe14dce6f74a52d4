"""`keyauthority health`: whether the authority can answer."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Final

import click

from keyauthority.cli import parameters
from keyauthority.cli.failures import Unanswered
from keyauthority.cli.output import show
from keyauthority.cli.session import connected, settings, wants_json
from keyauthority.clock import monotonic
from keyauthority.errors import KeyAuthorityError

_POLL_SECONDS: Final = 0.2


@click.command()
@click.option(
    "--wait",
    type=parameters.duration,
    default="0s",
    metavar="DURATION",
    help="Longest time to wait until it serves (default: 0s), e.g. 30s.",
)
@click.option(
    "--changes",
    is_flag=True,
    help="Ask whether it can commit changes, too (default: whether it can verify).",
)
@settings
def health(wait: timedelta, changes: bool) -> None:
    """Ask whether the authority can answer; needs no credential.

    Exit codes: 0 it serves, 3 it does not serve or cannot be reached.
    """
    end = monotonic() + wait.total_seconds()
    with connected(by_secret=True) as authority:
        while True:
            is_last = monotonic() >= end
            try:
                serving = authority.check_health(changes=changes)
            except KeyAuthorityError:
                if is_last:
                    raise
                serving = False
            if serving or is_last:
                break
            time.sleep(_POLL_SECONDS)
    status = "SERVING" if serving else "NOT_SERVING"
    show(f'{{"status": "{status}"}}' if wants_json() else status)
    if not serving:
        raise Unanswered("the authority does not serve now; its log says why")
