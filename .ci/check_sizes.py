"""Limits the sizes of files and functions; prints each that exceeds its limit.

Generated stubs are exempt. Exits 1 if anything was printed.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 50  # signature and docstring included, decorators not
ROOT = Path(__file__).resolve().parent.parent
GENERATED = "v1"  # folder of generated modules


def sources() -> Iterator[Path]:
    """Yield every Python file that is not generated."""
    for folder in ("client", "server", "tests", "benchmarks", "examples", ".ci"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.parent.name != GENERATED:
                yield path


def offences(path: Path) -> Iterator[str]:
    """Yield a line for the file and each function in it if too long."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT)
    lines = len(text.splitlines())
    if lines > FILE_LINES_MAX:
        yield f"{name}: {lines} lines, more than {FILE_LINES_MAX}"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES_MAX:
                function = f"{name}:{node.lineno}: {node.name}"
                yield f"{function}: {length} lines, more than {FUNCTION_LINES_MAX}"


def main() -> int:
    """Print every offence; return the exit status."""
    found = [line for path in sources() for line in offences(path)]
    print(*found, sep="\n", end="\n" if found else "")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
