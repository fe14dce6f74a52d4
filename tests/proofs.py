"""The amount of work of `make prove`, and its report.

A test of a fault that is numbered carries `@pytest.mark.case(number)`, and tells by `Proof` what it
did and how its control ended. `make test` runs its short form. `make prove` runs `PROVE` times as
much, and ends with a table of all cases.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Final

import pytest

PROVE: Final = int(os.environ.get("PROVE", "0"))
"""How many times as much is tried; 0, which is a short form, unless `make prove` says so."""

_CASE: Final = "case"
_DONE: Final = "done"
_CONTROL: Final = "control"
_LINE: Final = "{:>4}  {:<7}  {}"


def scaled(short: int, each: int) -> int:
    """Return how often something is tried: `each` times PROVE, or the short form."""
    return each * PROVE or short


class Proof:
    """One test's lines in the report."""

    def __init__(self, record: Callable[[str, object], None]) -> None:
        self._record = record

    def done(self, text: str) -> None:
        """Report the operations, their number and the measurements."""
        self._record(_DONE, text)

    def control(self, text: str) -> None:
        """Report the result with the fault brought back."""
        self._record(_CONTROL, text)


@pytest.fixture
def proof(record_property: Callable[[str, object], None]) -> Proof:
    """The test's lines of the report."""
    return Proof(record_property)


def note_case(item: pytest.Item) -> None:
    """Let the report know which case a test belongs to."""
    for marker in item.iter_markers("case"):
        item.user_properties += [(_CASE, number) for number in marker.args]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of cases in a run of `make prove`."""
    if not PROVE:
        return
    rows: list[tuple[int, str, pytest.TestReport]] = []
    for outcome in ("passed", "failed", "skipped", "error"):
        for report in terminalreporter.getreports(outcome):
            if isinstance(report, pytest.TestReport):
                told = dict(report.user_properties)
                rows.append((int(told.get(_CASE, 0)), outcome, report))  # type: ignore[call-overload]
    terminalreporter.section(f"proofs, PROVE={PROVE}")
    for case, outcome, report in sorted(rows, key=lambda row: (row[0] or 99, row[2].nodeid)):
        name = report.nodeid.removeprefix("tests/")
        head = _LINE.format(case or "-", outcome, f"{name}  {report.duration:.1f} s")
        terminalreporter.write_line(head)
        for kind, text in report.user_properties:
            if kind in (_DONE, _CONTROL):
                terminalreporter.write_line(_LINE.format("", "", f"  {kind}: {text}"))
