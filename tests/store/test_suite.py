"""The suite cannot lose a test silently: its tests are exactly those of `promises.txt`."""

from __future__ import annotations

import ast
from pathlib import Path

HERE = Path(__file__).parent


def test_suite_matches_promises_txt() -> None:
    """Removing, renaming or shadowing a test requires a change of the list."""
    promised = (HERE / "promises.txt").read_text(encoding="utf-8").split()
    written = [
        f"{path.stem}.{node.name}"
        for path in sorted(HERE.glob("test_*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    ]
    assert promised == sorted(written)
