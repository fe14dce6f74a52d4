"""Checks rules that no linter has; prints each breach with its rule.

1. Secrets and digests are compared with `hmac.compare_digest` only, never with `==`.
2. SQL is written in `store/` and nowhere else, and no statement is built by formatting in the call
   that runs it.

Exits 1 if anything was printed.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GENERATED = "v1"  # folder of generated modules
STORE = ROOT / "server/keyauthority_server/store"

SECRET_NAME = re.compile(r"^token$|(^|_)(secret|secret_key|operator_key|digest|hmac|mac|pepper)$")
STATEMENT = re.compile(
    r"\s*(SELECT\s.+\sFROM|INSERT\s+(OR\s+\w+\s+)?INTO|UPDATE\s+\w+\s+SET|DELETE\s+FROM"
    r"|(CREATE|ALTER|DROP)\s+(TABLE|INDEX|TRIGGER)|PRAGMA\s+\w+|BEGIN\s+IMMEDIATE)\b",
    re.DOTALL,
)
EXECUTES = frozenset({"execute", "executemany", "executescript"})


def name_of(node: ast.expr) -> str:
    """Return the last name of an expression: `held.digest` and `digest()` are both digest."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case ast.Call(func=function):
            return name_of(function)
        case ast.Subscript(slice=ast.Constant(value=str(name))):
            return name
        case _:
            return ""


def is_formatted(node: ast.expr) -> bool:
    """True for a string built by an expression in place."""
    match node:
        case ast.JoinedStr() | ast.BinOp(op=ast.Add() | ast.Mod()):
            return True
        case ast.Call(func=ast.Attribute(attr="format")):
            return True
        case _:
            return False


def breach(node: ast.AST, path: Path) -> str | None:
    """Return the rule that a node breaks."""
    match node:
        case ast.Compare(left=left, ops=operators, comparators=others) if any(
            isinstance(operator, ast.Eq | ast.NotEq) for operator in operators
        ):
            sides = [left, *others]
            if any(SECRET_NAME.search(name_of(side)) for side in sides) and not any(
                isinstance(side, ast.Constant) for side in sides
            ):
                return "compare secrets with hmac.compare_digest"
        case ast.Call(func=ast.Attribute(attr=method), args=[statement, *_]) if (
            method in EXECUTES and is_formatted(statement)
        ):
            return "no SQL is built by formatting; pass values as parameters"
        case ast.Constant(value=str(text)) if STATEMENT.match(text):
            if not path.is_relative_to(STORE):
                return "SQL is written in store/ only"
        case _:
            pass
    return None


def main() -> int:
    """Print every breach; return the exit status."""
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {rule}"
        for folder in ("client", "server")
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.parent.name != GENERATED
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (rule := breach(node, path)) and isinstance(node, ast.expr)
    ]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
