"""A disk that can be watched and can fail, below the SQLite of real server processes.

`vfs` stands between SQLite and its files, `recording` writes down what reaches them, `images` makes
of that what a loss of power could leave, `failing` lets operations fail. `site` brings it into each
process of a server that is started with `environment`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

RECORDING: Final = "DISK_RECORDING"
FAILING: Final = "DISK_FAILING"
SYNCHRONOUS: Final = "DISK_SYNCHRONOUS"
FORGIVING: Final = "DISK_FORGIVING"

_HERE: Final = Path(__file__).parent
_ROOT: Final = _HERE.parents[2]


def environment(**told: Path | str) -> dict[str, str]:
    """Return the variables with which a server has such a disk below it."""
    paths = (str(_HERE / "site"), str(_ROOT), os.environ.get("PYTHONPATH", ""))
    return {"PYTHONPATH": os.pathsep.join(filter(None, paths))} | {
        f"DISK_{name.upper()}": str(value) for name, value in told.items()
    }
