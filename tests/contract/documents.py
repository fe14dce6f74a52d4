"""Documents whose examples are run as a reader runs them: word for word, in order, in one folder.

The shell's variables last from block to block, and Python's blocks are one session. The one liberty
is the addresses of the server: it has ports of its own, so that tests can run at once.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from tests.service.processes import environment

ROOT: Final = Path(__file__).resolve().parents[2]
BLOCK_SECONDS: Final = 60
PROGRAMS: Final = {"js": ("example.mjs", "node"), "go": ("example.go", "go", "run")}
"""For each language, the file of a block and the command that runs it."""

_FENCED: Final = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ADDRESS: Final = "127.0.0.1:50051"
_SHELL: Final = """
set -euo pipefail
if [ -f .variables ]; then . ./.variables; fi
set -o allexport
{text}
export -p > .variables
"""


class Block(NamedTuple):
    """A fenced block of a document."""

    language: str
    text: str
    line: int
    """The line in the document where its text begins."""


def blocks(document: Path) -> list[Block]:
    """Return the fenced blocks of a document, in order."""
    text = document.read_text(encoding="utf-8")
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start(2)) + 1)
        for found in _FENCED.finditer(text)
    ]


class Reader:
    """Runs the examples of one document in the present folder, against the server at an address."""

    def __init__(
        self, document: Path, address: str, others: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        """`others` maps further addresses in the document to those of the test."""
        self._document = document
        self._addresses = {_ADDRESS: address, **others}
        self._session: dict[str, Any] = {"__name__": "__main__"}
        beside = str(Path(sys.executable).parent)  # grpcurl, and the commands of an installation
        self._settings = {
            "KEYAUTHORITY_ADDRESS": address,
            "PATH": os.pathsep.join([beside, os.environ["PATH"]]),
        }

    def run(self, block: Block) -> str:
        """Run one block; return the output of a shell block.

        Fails with the error and its line in the document.
        """
        text = block.text
        for documented, actual in self._addresses.items():
            text = text.replace(documented, actual)
        if block.language == "sh":
            return self._run_shell(text, block.line)
        if block.language in PROGRAMS:
            return self._run_program(block, text)
        assert block.language == "python", block
        placed = "\n" * (block.line - 1) + text
        exec(compile(placed, str(self._document), "exec"), self._session)  # noqa: S102 - our own text
        return ""

    def _run_program(self, block: Block, text: str) -> str:
        file, *command = PROGRAMS[block.language]
        Path(file).write_text(text)
        done = subprocess.run(
            [*command, file], capture_output=True, check=False, text=True, timeout=BLOCK_SECONDS
        )
        assert done.returncode == 0, f"{self._document.name}:{block.line}\n{done.stderr}"
        return done.stdout

    def _run_shell(self, text: str, line: int) -> str:
        done = subprocess.run(
            ["/bin/bash", "-c", _SHELL.format(text=text)],
            capture_output=True,
            check=False,
            env=environment(self._settings),
            stdin=subprocess.DEVNULL,
            text=True,
            timeout=BLOCK_SECONDS,
        )
        place = f"{self._document.name}:{line}"
        assert (done.returncode, done.stderr) == (0, ""), f"{place}\n{done.stdout}{done.stderr}"
        return done.stdout


def install_commands(folder: Path) -> None:
    """Put `keyauthority` where `make` puts it: into `.venv/bin` of the folder."""
    programs = folder / ".venv" / "bin"
    programs.mkdir(parents=True)
    command = programs / "keyauthority"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m keyauthority.cli "$@"\n')
    command.chmod(0o755)
