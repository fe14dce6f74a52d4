"""`python -m keyauthority_server` is the program `keyauthority-server`."""

from __future__ import annotations

from keyauthority_server.commands import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
