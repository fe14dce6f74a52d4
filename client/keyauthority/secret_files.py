"""Files with secrets that a user names: one warning for those that other users can read.

It is a warning and no refusal, since Kubernetes mounts a Secret with mode 0644 by default.
"""

from __future__ import annotations

import logging
import os
import stat
from functools import cache
from pathlib import Path
from typing import Final

_log: Final = logging.getLogger(__name__)


def warn_if_open(path: str | Path) -> None:
    """Log a warning, once per path, if other users of the machine can read a file."""
    if os.name == "posix":  # elsewhere the mode says nothing
        _warn_if_open(Path(path))


@cache
def _warn_if_open(path: Path) -> None:
    try:
        is_open = path.stat().st_mode & stat.S_IROTH
    except (OSError, ValueError):
        return
    if is_open:
        _log.warning("%s can be read by other users: chmod o-rwx %s", path, path)
