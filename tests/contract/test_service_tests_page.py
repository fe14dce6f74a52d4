"""The page about running a service: its test is run by pytest, as a reader would run it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.contract.documents import ROOT, blocks
from tests.service.processes import environment


def test_documented_test_of_a_service_passes(tmp_path: Path) -> None:
    """With the fixture of the plugin and a real authority."""
    page = ROOT / "docs" / "run-a-protected-service.md"
    texts = [block.text for block in blocks(page) if block.language == "python"]
    for name, text in zip(("conftest.py", "test_service.py"), texts[-2:], strict=True):
        (tmp_path / name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        check=False,
        text=True,
        timeout=120,
    )
    assert 0 == done.returncode, done.stdout + done.stderr
    assert "1 passed" in done.stdout
