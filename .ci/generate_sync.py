"""Generates the call modules of the blocking client and verifier from their asyncio twins.

`--check` exits 1 if a module differs from its twin. The packages' `__init__`, `connection` and the
verifiers' watches differ in more than `await`, and are written by hand.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent.parent / "client" / "keyauthority"
MODULES = {
    "verifier/aio_calls.py": "verifier/sync_calls.py",
    **{
        f"aio/{name}.py": f"client/{name}.py"
        for name in ("advisories", "audit", "keys", "projects", "tokens", "usage", "watch")
    },
}
HEAD = "# Generated from keyauthority/{source} by .ci/generate_sync.py: edit that file.\n"
REPLACEMENTS = (
    (r"\bawait ", ""),
    (r"\basync (?=def |for |with )", ""),
    (r"\bAsync(?=[A-Z])", ""),
    (r"\bkeyauthority\.aio\b", "keyauthority.client"),
    (r"in `aio`", "in `sync`"),
    (r", awaited:", ":"),
)


def generated(source: str) -> str:
    """Return the text of the blocking twin of a module."""
    text = (PACKAGE / source).read_text(encoding="utf-8")
    for pattern, replacement in REPLACEMENTS:
        text = re.sub(pattern, replacement, text)
    text = _ruff(text, "check", "--select", "I", "--fix-only")
    return HEAD.format(source=source) + _ruff(text, "format")


def _ruff(text: str, *command: str) -> str:
    name = str(PACKAGE / "client" / "generated.py")  # its configuration and import order apply
    ruff = [str(Path(sys.executable).parent / "ruff"), *command, "--quiet"]
    done = subprocess.run(  # noqa: S603 - this project's own tool
        [*ruff, "--stdin-filename", name, "-"],
        input=text,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def main() -> int:
    """Write the modules, or check them."""
    stale = []
    for source, target in MODULES.items():
        path, text = PACKAGE / target, generated(source)
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != text:
            stale.append(f"{target} differs from its twin {source}")
    if stale:
        sys.stderr.write("\n".join([*stale, "run `make sync`\n"]))
    return int(bool(stale))


if __name__ == "__main__":
    sys.exit(main())
