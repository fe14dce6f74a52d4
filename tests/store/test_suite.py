"""The suite cannot lose a test in silence: its tests are just those of `promises.txt`."""

from __future__ import annotations

import ast
from pathlib import Path

HERE = Path(__file__).parent


def test_suite_is_what_it_promises() -> None:
    """No test goes, is renamed, or hides another of the same name, but by a change of the list."""
    promised = (HERE / "promises.txt").read_text(encoding="utf-8").split()
    written = [
        f"{path.stem}.{node.name}"
        for path in sorted(HERE.glob("test_*.py"))
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
    ]
    assert promised == sorted(written)
