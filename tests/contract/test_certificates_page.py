"""docs/certificates.md: its commands create certificates that server and clients accept."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.contract.documents import ROOT, blocks, install_commands
from tests.service.forkserver import shared
from tests.service.processes import environment

PAGE = ROOT / "docs" / "certificates.md"
CLIENT = "keyauthority projects list"


def _run(text: str, folder: Path, **settings: str) -> None:
    done = subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", text],
        cwd=folder,
        env=environment(settings | {"PATH": f"{folder}/.venv/bin{os.pathsep}{os.environ['PATH']}"}),
        capture_output=True,
        check=False,
        text=True,
    )
    assert 0 == done.returncode, done.stdout + done.stderr


@pytest.mark.skipif(not Path("/usr/bin/openssl").exists(), reason="needs the program openssl")
def test_documented_commands_create_working_certificates(tmp_path: Path) -> None:
    """Each runs unmodified; the server demands the client's certificate too."""
    install_commands(tmp_path)
    commands = [block.text for block in blocks(PAGE) if block.language == "sh"]
    (connect,) = (text for text in commands if text.startswith(CLIENT))
    for text in commands:
        if text is not connect:
            _run(text, tmp_path)

    tls = tmp_path / "tls"
    assert [0o600] * 3 == [
        (tls / f"{name}.key").stat().st_mode & 0o777 for name in ("ca", "server", "client")
    ]
    flags = ("--tls-cert", str(tls / "server.pem"), "--tls-key", str(tls / "server.key"))
    server = shared().start(tmp_path / "data", *flags)
    try:
        _run(
            connect.replace("localhost:50051", server.address),
            tmp_path,
            KEYAUTHORITY_OPERATOR_KEY=server.operator_key,
        )
    finally:
        server.stop()
    callers = '[{"san": "spiffe://example.org/gateway", "permissions": ["projects:read"]}]'
    server = shared().start(
        tmp_path / "data",
        *(*flags, "--tls-client-ca", str(tls / "ca.pem")),
        settings={"KEYAUTHORITY_CALLERS": callers},
    )
    try:
        line = connect.replace("localhost:50051", server.address).rstrip()
        _run(f"{line} --tls-cert tls/client.pem --tls-key tls/client.key", tmp_path)
    finally:
        server.stop()
