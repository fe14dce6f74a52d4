"""Command line `keyauthority`, for people and scripts. Requires the extra `cli`.

Each module holds the commands of one group; they call `Client` and never the server's code.
Secrets come from standard input, never from arguments. Begin with `app`, then `session`, which
connects every command.
"""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import Final

_STANDARD_ERROR: Final = 2  # the highest descriptor of a standard stream


def main() -> None:
    """Run the command line and exit."""
    try:
        _prepare_streams()
        from keyauthority.cli.app import run

        code = run()
    except ModuleNotFoundError as error:
        if error.name not in {"click", "rich"}:
            raise
        sys.stderr.write("keyauthority: the command line needs more: install keyauthority[cli]\n")
        code = 2
    except KeyboardInterrupt:  # while modules load
        code = 130
    sys.exit(code)


def _prepare_streams() -> None:
    """Open closed standard streams on the null device, and hide gRPC's log.

    Otherwise a socket could take the descriptor of a standard stream. Characters outside the
    encoding of a stream are escaped. With GRPC_VERBOSITY set, gRPC's log is shown.
    """
    while (null := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        pass
    if isinstance(sys.stderr, TextIOWrapper) and "GRPC_VERBOSITY" not in os.environ:
        stderr = os.dup(_STANDARD_ERROR)
        os.dup2(null, _STANDARD_ERROR)
        sys.stderr = os.fdopen(stderr, "w", encoding=sys.stderr.encoding, buffering=1)
    os.close(null)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
