"""Entry point of `python -m keyauthority_server`, the same as `keyauthority-server`."""

from __future__ import annotations

from keyauthority_server.commands import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
