"""Tests that run on one engine only, each with its reason."""

from __future__ import annotations

import pytest


def only(engine: str, *, because: str) -> pytest.MarkDecorator:
    """Run a test on one engine only; `because` is the reason."""
    excused = pytest.param(engine, id=f"{engine} only: {because}")
    return pytest.mark.parametrize("engine", [excused], indirect=True)
