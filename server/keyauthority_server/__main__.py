"""Entry point of `python -m keyauthority_server`, the same as `keyauthority-server`."""

from __future__ import annotations

import gc
import signal
import sys
from typing import Final

INTERRUPTED: Final = 130  # as shells report SIGINT
WRONG: Final = 2  # wrong usage or configuration

_EXTRA: Final = frozenset(
    {"click", "cryptography", "prometheus_client", "sqlite_utils", "structlog"}
)
"""Modules of the extra `server`, one of which is imported first."""


def main() -> None:
    """Run the command line and exit."""
    try:
        # A parent may have blocked them, and then neither would end the program.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
        gc.disable()  # modules that load leave no garbage: a sixth less time
        from keyauthority_server.commands import main as run

        gc.enable()
        run()
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _EXTRA:
            raise
        sys.stderr.write(
            "keyauthority-server: the server needs more: install keyauthority[server]\n"
        )
        sys.exit(WRONG)
    except KeyboardInterrupt:  # while modules load
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
