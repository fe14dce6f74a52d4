"""The page of the console in the documents: its commands run, its tables are complete."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

import pytest

from keyauthority.console.app import PAGES
from keyauthority.console.command import console as command
from tests.console.people import READY
from tests.contract.documents import ROOT, blocks, install_commands
from tests.service.certificates import LOOPBACK, Issuer
from tests.service.processes import ServerProcess, environment

pytestmark = pytest.mark.xdist_group("console")

PAGE: Final = ROOT / "docs" / "console.md"


def test_documented_commands_print_their_lines(
    tmp_path: Path, console_server: ServerProcess
) -> None:
    """Each starts a console, on a port of its own."""
    install_commands(tmp_path)
    Issuer().issue(*LOOPBACK).write(tmp_path, "console")
    settings = {
        "KEYAUTHORITY_ADDRESS": console_server.address,
        "KEYAUTHORITY_OPERATOR_KEY": console_server.operator_key,
        "PATH": f"{tmp_path}/.venv/bin:/usr/bin:/bin",
    }
    found = [block for block in blocks(PAGE) if block.language == "sh"]
    assert len(found) == 2
    for block in found:
        text = block.text.strip().replace("0.0.0.0:8443", "0.0.0.0:0")
        if "--listen" not in text:
            text += " --listen 127.0.0.1:0"
        with subprocess.Popen(
            ["/bin/sh", "-c", f"exec {text}"],
            cwd=tmp_path,
            env=environment(settings),
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout
            assert READY.fullmatch(process.stdout.readline()), text
            process.terminate()


def test_documented_options_and_pages_are_those_that_exist() -> None:
    """No option or page is missing from the tables, and none is there that does not exist."""
    text = PAGE.read_text(encoding="utf-8")
    own = {option.opts[0] for option in command.params if option.name in OWN}
    assert own == set(re.findall(r"`(--[a-z-]+)", text))
    actions = {
        re.sub(r"\{\w+:(\w+)\}", lambda found: found[1].upper(), page.path) for page in PAGES
    }
    for path in actions - {"/check", "/secret-shown/{mark}", "/sign-out"}:
        assert f"`{path}`" in text or f"`/{path.rpartition('/')[2]}`" in text, path


OWN: Final = {"listen", "sign_in", "tls_cert", "tls_key"}
