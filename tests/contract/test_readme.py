"""The README's examples run unmodified, in order, against a real server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.contract.documents import ROOT, Reader, blocks, install_commands
from tests.service.processes import ServerProcess, start

README: Final = ROOT / "README.md"
NOT_RUN: Final = ("make serve\n", "make console\n")
"""Blocks for steps that the test has done already."""


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerProcess]:
    """A server that was started in the folder where the reader is."""
    install_commands(tmp_path)
    monkeypatch.chdir(tmp_path)
    running = start(tmp_path / "keyauthority-data")
    yield running
    running.stop()


def test_readme_examples_run_unmodified(server: ServerProcess, tmp_path: Path) -> None:
    """Each block succeeds and shows its output, without the secret."""
    reader = Reader(README, server.address)
    shown = "".join(reader.run(one) for one in blocks(README) if one.text not in NOT_RUN)

    secret = (tmp_path / "secret.txt").read_text().strip()
    assert secret.startswith("rk_test_KA")
    assert "VALID" in shown
    assert "keyauthority.v1.KeyAuthorityService" in shown
    assert secret not in shown
    written = ("project.json", "key.json", "secret.txt")
    assert [0o600] * 3 == [(tmp_path / name).stat().st_mode & 0o777 for name in written]
    assert set(written) <= set((ROOT / ".gitignore").read_text().split())
    assert_no_secret_is_an_argument()


def assert_no_secret_is_an_argument() -> None:
    """An argument is in `ps` for every user of the machine; `printf` and `echo` are the shell's."""
    for block in blocks(README):
        commands = re.split(r"[|\n]\s*", block.text.replace("\\\n", " "))
        exposed = [one for one in commands if re.search(r"\$\(cat |\$\{?OPERATOR", one)]
        allowed = ("export ", "printf ", "grpcurl -plaintext -expand-headers -H 'authorization:")
        assert [] == [one for one in exposed if not one.startswith(allowed)]


def test_readme_blocks_are_all_listed() -> None:
    """Every block is run or listed as not run, and neither list has stale entries."""
    found = blocks(README)
    assert {"sh", "python"} == {block.language for block in found}
    assert set(NOT_RUN) <= {block.text for block in found}
    assert len(found) > len(NOT_RUN) + 2


def test_readme_links_lead_to_files() -> None:
    """Every link into the tree has a target."""
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text(encoding="utf-8"))
    assert links
    assert [] == [
        link for link in links if "://" not in link and not (README.parent / link).exists()
    ]
