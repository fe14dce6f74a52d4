"""Stores that a start waits for."""

from __future__ import annotations

import asyncio

import pytest

from keyauthority_server.config import StoreUrl
from keyauthority_server.store.interface import StoreUnavailable
from keyauthority_server.store.patience import when_reachable


@pytest.mark.parametrize("url", ["postgresql://u@h/d", "sqlite:////data/keys.db"])
async def test_start_waits_for_postgres_only(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may become reachable; a fault of a local file ends the start."""
    monkeypatch.setattr("keyauthority_server.store.patience.RETRY_SECONDS", 0)
    store, failures = StoreUrl.parse(url), [StoreUnavailable("down")]

    async def use() -> str:
        if failures:
            raise failures.pop()
        return "used"

    waiting = when_reachable(use, store, asyncio.Event())
    if store.is_postgres:
        assert "used" == await waiting
        return
    with pytest.raises(StoreUnavailable, match="down"):
        await waiting
