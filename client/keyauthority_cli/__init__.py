"""Entry point of the program `keyauthority`, outside the library, whose import takes a moment."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import Final

_INTERRUPTED: Final = 130  # as shells report SIGINT


def main() -> None:
    """Run the command line and exit."""
    try:
        if os.name == "posix":  # a parent may have blocked them, and then neither would end it
            signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
        gc.disable()  # modules that load leave no garbage: a sixth less time
        from keyauthority.cli import main as run

        gc.enable()
        run()
    except KeyboardInterrupt:  # while modules load
        sys.exit(_INTERRUPTED)
