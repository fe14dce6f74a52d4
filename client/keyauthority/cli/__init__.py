"""The command line `keyauthority`: the client library for people and scripts. Extra `cli`."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import Final

_STANDARD_ERROR: Final = 2  # the last descriptor of a standard stream


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
    """Keep sockets off closed standard streams, and gRPC's own log off standard error.

    Text outside the encoding of a stream is escaped. GRPC_VERBOSITY shows gRPC's log again.
    """
    while (null := os.open(os.devnull, os.O_RDWR)) <= _STANDARD_ERROR:
        pass
    if isinstance(sys.stderr, TextIOWrapper) and "GRPC_VERBOSITY" not in os.environ:
        kept = os.dup(_STANDARD_ERROR)
        os.dup2(null, _STANDARD_ERROR)
        sys.stderr = os.fdopen(kept, "w", encoding=sys.stderr.encoding, buffering=1)
    os.close(null)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
