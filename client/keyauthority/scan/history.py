"""Tokens in the history of a git repository: lines that commits added, and commit messages.

The output of `git log -p` is read as it comes. A merge is read as a combined diff, which has the
lines that differ from every parent.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Final

from keyauthority.scan.git import git_lines, git_output
from keyauthority.scan.text import MARK, Finding, find_in

MESSAGE: Final = "(commit message)"
"""The file name of findings in commit messages."""

_COMMIT: Final = b"\0commit "
# No option of the user or the repository may change the form of the output, or omit a file.
_LOG: Final = (
    *("-c", "core.quotePath=false", "-c", "log.showRoot=true", "-c", "core.bigFileThreshold=512m"),
    *("-c", "core.attributesFile=/dev/null", "log", "-p", "--cc", "-U0", "--encoding=UTF-8"),
    *("--format=%x00commit %H%n%B%n%x00", "--no-color", "--no-ext-diff", "--no-textconv"),
    *("--no-renames", "--src-prefix=a/", "--dst-prefix=b/", "--submodule=short", "--no-notes"),
    *("--no-show-signature", "--no-mailmap", "--no-decorate"),
)
_HUNK: Final = re.compile(rb"(@@+) [^+]*\+(\d+)(?:,(\d+))? @@")
_ESCAPE: Final = re.compile(rb"\\([abfnrtv\"\\]|[0-7]{3})")
_ESCAPED: Final = dict(zip(b"abfnrtv", b"\a\b\f\n\r\t\v", strict=True))


def scan_history(commits: str = "", folder: str = ".") -> Iterator[Finding]:
    """Yield the tokens that the commits of a range added; without a range, those of all refs.

    Raises ScanError if git is missing, or rejects the range or the folder.
    """
    wanted = ("--end-of-options", commits, "--") if commits else ("--all",)
    with closing(git_lines(*_repository(folder), *_LOG, *wanted)) as lines:
        yield from _scan_log(lines)


def _repository(folder: str) -> tuple[str, ...]:
    """Return the options that open the repository of a folder, without its work tree.

    Its .gitattributes could declare files binary, and git would omit their lines.
    """
    found = git_output("-C", folder, "rev-parse", "--absolute-git-dir")
    if found is None:  # the log says why
        return ("-C", folder)
    return ("-C", os.fsdecode(found.removesuffix(b"\n")), "--git-dir=.", "--work-tree=.")


def _scan_log(lines: Iterable[bytes]) -> Iterator[Finding]:
    commit = file = ""
    in_message = False
    number = added = 0  # of the next line in the new file, and how many the hunk still has
    columns = 1  # of marks before each line, one for each parent
    for line in lines:
        if line[:1] == b"\0":
            in_message = line.startswith(_COMMIT)
            number, added = 1, 0
            if in_message:
                commit = line[len(_COMMIT) :].strip().decode("ascii")
        elif in_message:
            if MARK in line:
                yield from _found(line, MESSAGE, number, commit)
            number += 1
        elif added and b"-" not in line[:columns]:
            if line[:1] != b"\\":  # "\\ No newline at end of file"
                if MARK in line and b"+" in line[:columns]:
                    yield from _found(line[columns:], file, number, commit)
                number, added = number + 1, added - 1
        elif line.startswith(b"+++ "):
            file = _path(line[4:])
        elif hunk := _HUNK.match(line):
            columns, number = len(hunk[1]) - 1, int(hunk[2])
            added = 1 if hunk[3] is None else int(hunk[3])


def _found(text: bytes, file: str, number: int, commit: str) -> Iterator[Finding]:
    for _, finding in find_in(text, file, number, commit):
        yield finding


def _path(name: bytes) -> str:
    """Return the path of a `+++` line: unquoted, without prefix."""
    name = name.rstrip(b"\n").removesuffix(b"\t")
    if name.startswith(b'"'):
        name = _ESCAPE.sub(_unescape, name[1:-1])
    return os.fsdecode(name.removeprefix(b"b/"))


def _unescape(escape: re.Match[bytes]) -> bytes:
    text = escape[1]
    if len(text) > 1:
        return bytes([int(text, 8)])
    return bytes([_ESCAPED.get(text[0], text[0])])
