"""Tokens in files and trees, searched by all cores.

In a git work tree the files are those that git tracks or would add, so `.gitignore` applies; in any
other folder, all files. Symbolic links are not followed.
"""

from __future__ import annotations

import multiprocessing
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Final

from keyauthority.model import KeyKind, KeyMode
from keyauthority.scan.git import git_output
from keyauthority.scan.text import Finding, scan_stream
from keyauthority.token import SecretKey

_BATCH: Final = 256  # files searched by one task

Failed = Callable[[str], None]
"""Takes one line for each file or folder that cannot be read."""

_Plain = tuple[str, int, str, KeyKind, KeyMode, str]
"""A finding with its token as plain text, which unlike a SecretKey can pass between processes."""
_Scanned = tuple[list[_Plain], list[str]]
"""Findings and failures."""


def scan_paths(paths: Iterable[Path], failed: Failed) -> Iterator[Finding]:
    """Yield the tokens in files and trees, in order of the paths.

    A file or folder that cannot be read is reported to `failed`, and the scan continues.
    """
    batches = _batches(_files(paths, failed))
    first, second = next(batches, []), next(batches, [])
    cores = len(os.sched_getaffinity(0))
    if not second or cores == 1:
        for batch in (first, second, *batches):
            yield from _found(_scan_batch(batch), failed)
        return
    fork = multiprocessing.get_context("fork")  # quick, and no thread or connection exists yet
    with ProcessPoolExecutor(cores, mp_context=fork) as pool:
        for scanned in pool.map(_scan_batch, [first, second, *batches]):
            yield from _found(scanned, failed)


def _found(scanned: _Scanned, failed: Failed) -> Iterator[Finding]:
    found, failures = scanned
    for failure in failures:
        failed(failure)
    for file, line, token, kind, mode, access_key in found:
        yield Finding(file, line, SecretKey(token), kind, mode, access_key)


def _scan_batch(files: Sequence[str]) -> _Scanned:
    found: list[_Plain] = []
    failures: list[str] = []
    for file in files:
        try:
            with open(file, "rb", opener=_open) as stream:
                found += [
                    (name, line, token.reveal(), kind, mode, access_key)
                    for name, line, token, kind, mode, access_key, _ in scan_stream(stream, file)
                ]
        except OSError as error:
            failures.append(f"{file}: {error.strerror}")
    return found, failures


def _open(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)  # a FIFO does not block the scan


def _batches(files: Iterator[Path]) -> Iterator[list[str]]:
    while batch := [str(file) for file in islice(files, _BATCH)]:  # quicker between processes
        yield batch


def _files(paths: Iterable[Path], failed: Failed) -> Iterator[Path]:
    for path in paths:
        try:
            is_folder = stat.S_ISDIR(path.stat().st_mode)
        except OSError as error:
            failed(f"{path}: {error.strerror}")
            continue
        if is_folder:
            yield from _tree(path, failed)
        else:
            yield path


def _tree(folder: Path, failed: Failed) -> Iterator[Path]:
    """Yield the regular files below a folder."""
    listed = _listed_by_git(folder)
    if listed is None:
        yield from _all_files(folder, failed)
        return
    is_within = _within(folder)
    for name in listed:
        path = folder / name
        if not is_within(name):
            failed(f"{path}: outside of {folder}, though its git index names it")
            continue
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:  # deleted, but still in the index
            continue
        except OSError as error:
            failed(f"{path}: {error.strerror}")
            continue
        if stat.S_ISREG(mode):
            yield path
        elif stat.S_ISDIR(mode):  # a submodule, or a repository within this one
            yield from _tree(path, failed)


def _all_files(folder: Path, failed: Failed) -> Iterator[Path]:
    def report(error: OSError) -> None:
        failed(f"{error.filename}: {error.strerror}")

    for parent, folders, names in os.walk(folder, onerror=report):
        folders[:] = sorted(name for name in folders if name != ".git")
        for name in sorted(names):
            path = Path(parent, name)
            try:
                is_file = stat.S_ISREG(path.lstat().st_mode)
            except OSError as error:
                failed(f"{path}: {error.strerror}")
                continue
            if is_file:
                yield path


def _within(folder: Path) -> Callable[[str], bool]:
    """Return whether a name in the index is that of a file below the folder, by no link.

    An index can hold any name: git itself writes none that leads out of the work tree.
    """
    root = folder.resolve()

    @cache
    def is_plain(parent: str) -> bool:
        path = root / parent
        return path.resolve() == path

    def is_within(name: str) -> bool:
        parent, _, last = name.rstrip("/").rpartition("/")
        return not name.startswith("/") and last not in (".", "..") and is_plain(parent)

    return is_within


def _listed_by_git(folder: Path) -> list[str] | None:
    """Return the files of a git work tree; None for a folder outside one or ignored by it."""
    if git_output("-C", str(folder), "check-ignore", "-q", ".") is not None:
        return None
    listing = git_output(
        *("-C", str(folder), "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    )
    if listing is None:
        return None
    names = dict.fromkeys(listing.split(b"\0"))  # a file in conflict is listed several times
    return [os.fsdecode(name) for name in names if name]
