"""Environment that injects faults into real servers: in the disk below SQLite, or the clock.

Each process of a server that is started with `environment` imports `site/sitecustomize.py` first,
which alters the modules that the variables name. The program's own code is unchanged.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

RECORDING: Final = "ALTERED_RECORDING"
"""The file that all operations on files are written into."""
FAILING: Final = "ALTERED_FAILING"
"""The file that orders which operations on files fail."""
SYNCHRONOUS: Final = "ALTERED_SYNCHRONOUS"
"""A control: another setting than FULL for the commits of changes."""
FORGIVING: Final = "ALTERED_FORGIVING"
"""A control: a process goes on after its disk has failed."""
CLOCK: Final = "ALTERED_CLOCK"
"""The file that holds by how many seconds the wall clock is off."""
FAULTY: Final = "ALTERED_FAULTY"
"""GetUsage fails by a fault of the program."""
UNCOLLECTED: Final = "ALTERED_UNCOLLECTED"
"""Disable garbage collection: a cycle of references is never freed."""

_HERE: Final = Path(__file__).parent
_ROOT: Final = _HERE.parents[1]


def environment(**variables: Path | str) -> dict[str, str]:
    """Return the variables that alter a server: `recording`, `failing`, `clock` and so on."""
    paths = (str(_HERE / "site"), str(_ROOT), os.environ.get("PYTHONPATH", ""))
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | {
        f"ALTERED_{name.upper()}": str(value) for name, value in variables.items()
    }
