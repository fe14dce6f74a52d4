"""Entry point of `python -m keyauthority_server`, the same as `keyauthority-server`."""

from __future__ import annotations

import gc
import sys
from typing import Final

INTERRUPTED: Final = 130  # as shells report SIGINT


def main() -> None:
    """Run the command line and exit."""
    try:
        gc.disable()  # modules that load leave no garbage: a sixth less time
        from keyauthority_server.commands import main as run

        gc.enable()
        run()
    except KeyboardInterrupt:  # while modules load
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
