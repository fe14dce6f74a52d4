"""`make bench` in its shortest form, on a machine without h2load."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.__main__ import main

SHORT = ("--rounds", "1", "--seconds", "0.02", "--cases", "5", "--keys", "30")


@pytest.mark.timeout(300)
def test_run_without_h2load_measures_the_rest_and_says_what_it_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What needs no h2load is measured as ever; nothing is left out in silence."""
    taskset = shutil.which("taskset")
    assert taskset is not None
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "taskset").symlink_to(taskset)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    main(
        [*SHORT, "--out", str(tmp_path), "--only", "verify", "--only", "keys", "--only", "verifier"]
    )
    parts = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert ["verify", "verifier", "keys"] == list(parts)
    assert "verify … left out: h2load is not installed" in capsys.readouterr().out
    assert "Left out: h2load is not installed" in (tmp_path / "results.md").read_text()
    measured = [figure for name in ("verifier", "keys") for figure in parts[name]["figures"]]
    assert measured
    assert all(figure["rounds"] and min(figure["rounds"]) >= 0 for figure in measured)
