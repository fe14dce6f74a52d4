"""Entry point of the program `keyauthority`, outside the library, whose import takes a moment."""

from __future__ import annotations

import sys
from typing import Final

_INTERRUPTED: Final = 130  # as shells report SIGINT


def main() -> None:
    """Run the command line and exit."""
    try:
        from keyauthority.cli import main as run

        run()
    except KeyboardInterrupt:  # while modules load
        sys.exit(_INTERRUPTED)
