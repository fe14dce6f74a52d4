"""Calls of git, in repositories that are not trusted.

The configuration of a repository can name programs for git to run. Those that the commands of this
package could reach are turned off: a scan must not run what it scans.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Generator
from functools import cache
from tempfile import TemporaryFile
from typing import Any, Final

from keyauthority.scan.text import ScanError

_OPTIONS: Final = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
_VARIABLES: Final = {
    "GIT_OPTIONAL_LOCKS": "0",
    # A partial clone would fetch missing objects, by a command of its choice.
    "GIT_ALLOW_PROTOCOL": "",
    "GIT_NO_LAZY_FETCH": "1",
    # Commits are read as they are, without those that the repository puts in their place.
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_GRAFT_FILE": os.devnull,
}


def git_output(*arguments: str) -> bytes | None:
    """Return the output of a git command; None if it fails or git is not installed."""
    program = _git()
    if program is None:
        return None
    ended = subprocess.run(
        **_call(program, arguments), stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    return None if ended.returncode else ended.stdout


def git_lines(*arguments: str) -> Generator[bytes]:
    """Yield the lines of a git command as they come. Raises ScanError if it fails."""
    program = _git()
    if program is None:
        raise ScanError("git is not installed; it is needed to read a history")
    with TemporaryFile() as errors:
        with subprocess.Popen(
            **_call(program, arguments),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        ) as running:
            assert running.stdout is not None  # noqa: S101 - for mypy: it is a pipe
            yield from running.stdout
        if running.returncode:
            errors.seek(0)
            lines = errors.read().decode("utf-8", "replace").strip().splitlines()
            raise ScanError(f"git: {lines[0] if lines else 'failed'}")


def _call(program: str, arguments: tuple[str, ...]) -> dict[str, Any]:
    return {"args": [program, *_OPTIONS, *arguments], "env": {**os.environ, **_VARIABLES}}


@cache
def _git() -> str | None:
    return shutil.which("git")
