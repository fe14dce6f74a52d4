"""Calls of git."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Generator
from functools import cache
from tempfile import TemporaryFile

from keyauthority.scan.text import ScanError


def git_output(*arguments: str) -> bytes | None:
    """Return the output of a git command; None if it fails or git is not installed."""
    program = _git()
    if program is None:
        return None
    ended = subprocess.run([program, *arguments], capture_output=True, check=False)  # noqa: S603
    return None if ended.returncode else ended.stdout


def git_lines(*arguments: str) -> Generator[bytes]:
    """Yield the lines of a git command as they come. Raises ScanError if it fails."""
    program = _git()
    if program is None:
        raise ScanError("git is not installed; it is needed to read a history")
    with TemporaryFile() as errors:
        with subprocess.Popen(  # noqa: S603 - the program is found on the path
            [program, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors
        ) as running:
            assert running.stdout is not None  # noqa: S101 - for mypy: it is a pipe
            yield from running.stdout
        if running.returncode:
            errors.seek(0)
            lines = errors.read().decode("utf-8", "replace").strip().splitlines()
            raise ScanError(f"git: {lines[0] if lines else 'failed'}")


@cache
def _git() -> str | None:
    return shutil.which("git")
