"""Libraries that check API keys in the caller's own process, beside our in-process verifier.

They are installed into an environment of their own, `.venv-bench`, and measured there by
`library_checks.py`, as their users would call them.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Final

from benchmarks.authority import serving
from benchmarks.figures import Part
from benchmarks.run import Measure, Run, on_core, steps_a_second, take_turns
from keyauthority import Verifier

LIBRARIES: Final = {
    # name in the table: name in `library_checks.py`
    "djangorestframework-api-key, is_valid": "django",
    "keyshield, verify_key, no delay": "keyshield",
    "keyshield, verify_key, as it comes": "keyshield-delayed",
    "keyshield, verify_key, cached for 5 minutes": "keyshield-cached",
}
_OURS: Final = "Key Authority, in-process verifier"
_ROOT: Final = Path(__file__).parent.parent.parent
_PYTHON: Final = _ROOT / ".venv-bench" / "bin" / "python"
_CHECKS: Final = _ROOT / "benchmarks" / "library_checks.py"
_TEXT: Final = """\
Checks a second of one valid key, one after the other by one thread on one core, each library on a
SQLite file of its own. keyshield waits a random 0.1 to 0.3 s in each check unless it is told not
to, and hashes with Argon2; its cache, which has to be chosen, does not notice for up to 5 minutes
what another process has revoked."""


def measure(run: Run) -> Part:
    """Measure the installed libraries in turn."""
    part = Part("Libraries in the caller's process", _TEXT)
    with (
        serving(run, "libraries") as authority,
        on_core(run.load_core),
        Verifier(authority.client) as verifier,
    ):
        verifier.wait_until_fresh(10)
        token = authority.create().secret_key.reveal()
        sides: dict[str, Measure] = {
            _OURS: lambda: steps_a_second(lambda: verifier.verify(token), run.seconds)
        }
        for name, kind in LIBRARIES.items():
            if reason := _missing(kind):
                part.left_out.append(f"{name}: {reason}")
            else:
                sides[name] = _library(run, kind)
        part.add("checks/s", take_turns(sides, run.rounds))
    for name in LIBRARIES:
        part.compare(f"ours to {name}", _OURS, name)
    return part


def _missing(kind: str) -> str:
    """Return why a library cannot be measured; nothing if it can."""
    if not _PYTHON.exists():
        return "it is not installed into .venv-bench"
    with tempfile.TemporaryDirectory() as folder:
        done = _check(kind, 0.0, folder)
    return "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it failed"])[-1]


def _library(run: Run, kind: str) -> Measure:
    def measure() -> float:
        with tempfile.TemporaryDirectory(dir=run.folder) as folder:
            done = _check(kind, run.seconds, folder)
        done.check_returncode()
        return float(done.stdout)

    return measure


def _check(kind: str, seconds: float, folder: str) -> subprocess.CompletedProcess[str]:
    command = [str(_PYTHON), str(_CHECKS), kind, str(seconds), folder]
    return subprocess.run(command, check=False, capture_output=True, text=True)
