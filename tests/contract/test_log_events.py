"""The page of log events: every event of the server, with its levels."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from typing import Final

from tests.contract.documents import ROOT

PAGE: Final = ROOT / "docs" / "log-events.md"
SERVER: Final = ROOT / "server" / "keyauthority_server"
LEVELS: Final = {
    **{level: level for level in ("debug", "info", "warning", "error", "critical")},
    "exception": "error",
}


def logged_events() -> dict[str, set[str]]:
    """Return the levels of each event that the server's code logs."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in SERVER.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="_log"), attr=method), args=[event, *_]
                ) if method in LEVELS:
                    for name in _constants(event):
                        found[name].add(LEVELS[method])
                case ast.Call(
                    func=ast.IfExp(
                        body=ast.Attribute(value=ast.Name(id="_log"), attr=first),
                        orelse=ast.Attribute(value=ast.Name(id="_log"), attr=second),
                    ),
                    args=[event, *_],
                ):
                    for name in _constants(event):
                        found[name] |= {LEVELS[first], LEVELS[second]}
                case _:
                    pass
    return found


def _constants(event: ast.expr) -> list[str]:
    choices = [event.body, event.orelse] if isinstance(event, ast.IfExp) else [event]
    assert all(isinstance(choice, ast.Constant) for choice in choices), ast.unparse(event)
    return [str(choice.value) for choice in choices if isinstance(choice, ast.Constant)]


def test_documentation_lists_each_log_event_with_its_levels() -> None:
    """No event is missing or has gone, and each has the levels of the code."""
    rows = re.findall(
        r"^\| (`.+?) \| ([a-z, ]+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    listed = {
        name: set(levels.split(", "))
        for names, levels in rows
        for name in re.findall(r"`(\w+)`", names)
    }
    assert logged_events() == listed
