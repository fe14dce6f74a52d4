"""The cost of restrictions, limits and counting in a Verify."""

from __future__ import annotations

from typing import Final

from benchmarks.authority import ASKED, quota, rate_limit, serving
from benchmarks.figures import Part
from benchmarks.h2load import Load, require
from benchmarks.run import Run, take_turns

_PLAIN: Final = "a key without anything"
_STRICT: Final = "permission and address checked"
_LIMITED: Final = "rate limit spent"
_ALL: Final = "permission, address, rate limit and quota"
_TEXT: Final = """\
Calls a second of Verify, native transport, SQLite, one core: one question, repeated, the best case.
All are metered. A limit is spent in a
transaction that is exact over all processes and survives kill -9."""


def measure(run: Run) -> Part:
    """Measure keys with more and more to check, in turn."""
    require()
    part = Part("What a key's features cost", _TEXT)
    with serving(run, "features") as authority:
        limits = {"rate_limit": rate_limit(), "quota": quota()}
        targets = {
            _PLAIN: authority.verify(authority.create()),
            _STRICT: authority.verify(authority.strict(), **ASKED),
            _LIMITED: authority.verify(authority.create(rate_limit=rate_limit())),
            _ALL: authority.verify(authority.strict(**limits), **ASKED),
        }
        sides = {name: Load(run, target) for name, target in targets.items()}
        part.add("calls/s", take_turns(sides, run.rounds))
    part.compare("permission and address", _STRICT, _PLAIN, "≥ 0.8")
    part.compare("rate limit", _LIMITED, _PLAIN, "≥ 0.5")
    part.compare("all of it", _ALL, _PLAIN, "≥ 0.5")
    return part
