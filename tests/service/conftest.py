"""The first operator of a shared server, as a client and at the command line; one bare process."""

from __future__ import annotations

import io
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import keyauthority
from keyauthority.cli.app import run
from keyauthority_server.runtime.bootstrap import prepare
from tests.faults.folders import Process, process, settings
from tests.service.processes import Command, Outcome, ServerProcess


@pytest.fixture
def client(server: ServerProcess) -> Iterator[keyauthority.Client]:
    """The first operator's client."""
    with keyauthority.Client(server.address, operator_key=server.operator_key) as opened:
        yield opened


@pytest.fixture
def command(
    server: ServerProcess, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Command:
    """Runs `keyauthority` as the first operator."""
    monkeypatch.setenv("KEYAUTHORITY_ADDRESS", server.address)
    monkeypatch.setenv("KEYAUTHORITY_OPERATOR_KEY", server.operator_key)

    def ended(*arguments: str, stdin: str = "") -> Outcome:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        return Outcome(run(arguments), *capsys.readouterr())

    return ended


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[Process]:
    """One process of the authority, without a transport."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    await prepare(settings(folder))
    async with process(folder) as running:
        yield running
