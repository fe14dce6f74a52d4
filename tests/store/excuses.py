"""What an engine is excused from, and why."""

from __future__ import annotations

import pytest


def only(engine: str, *, because: str) -> pytest.MarkDecorator:
    """Excuse all other engines from a test; `because` says why."""
    excused = pytest.param(engine, id=f"{engine} only: {because}")
    return pytest.mark.parametrize("engine", [excused], indirect=True)
