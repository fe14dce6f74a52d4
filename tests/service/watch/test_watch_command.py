"""`keyauthority watch` continues over restarts of the server."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

import keyauthority
from tests.service.forkserver import shared
from tests.service.processes import WAIT_SECONDS, ServerProcess, environment


@pytest.mark.usefixtures("interruptible")
def test_watch_command_resumes_without_a_gap_after_a_restart(tmp_path: Path) -> None:
    """After a drain or kill each change is printed once, the outage in one line."""
    server = shared().start(tmp_path / "data")
    address, operator_key = server.address, server.operator_key
    settings = {"KEYAUTHORITY_ADDRESS": address, "KEYAUTHORITY_OPERATOR_KEY": operator_key}
    with (
        subprocess.Popen(
            [sys.executable, "-m", "keyauthority.cli", "watch", "--from-revision", "2"],
            env=environment(settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as running,
        keyauthority.Client(address, operator_key=operator_key) as client,
    ):
        assert running.stdout is not None
        told = []
        for end in (ServerProcess.stop, ServerProcess.kill, None):
            client.create_project("while it watches")
            told.append(int(running.stdout.readline().split()[0]))
            if end is not None:
                end(server)
                server = shared().start(tmp_path / "data", listen=address)
                client.create_project("while it is away")
                told.append(int(running.stdout.readline().split()[0]))
        running.send_signal(signal.SIGINT)
        rest, errors = running.communicate(timeout=WAIT_SECONDS)
    server.stop()
    assert ([3, 4, 5, 6, 7], "", 0) == (told, rest, running.returncode)
    assert 2 == errors.count("; resuming\n") == errors.count("\n")
