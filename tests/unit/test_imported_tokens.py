"""Tokens of other systems: the work of a batch of them is shared with other calls."""

from __future__ import annotations

import asyncio
from unittest.mock import AsyncMock, Mock

import pytest

from keyauthority.model import ImportScheme, ImportSet
from keyauthority_server.services import time_slices
from keyauthority_server.services.presented_tokens import ImportedTokens
from keyauthority_server.services.time_slices import TimeSlices


async def test_other_tasks_run_between_texts_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many sets each text fits."""
    monkeypatch.setattr(time_slices, "SLICE_SECONDS", 0.0)
    sets = [
        ImportSet(
            name=f"set{number}",
            scheme=ImportScheme.SHA256_HEX,
            token_length_min=1,
            token_length_max=512,
        )
        for number in range(3)
    ]
    store = Mock(query=AsyncMock(return_value=sets), find_imported=AsyncMock(return_value={}))
    peppers = Mock(versions=(1,), digest=lambda message, _: message)
    imported = ImportedTokens(store, peppers, Mock(catch_up=Mock(return_value=False)))
    texts = [f"text{number}" for number in range(20)]
    turns = 0
    with TimeSlices().begin() as slices:
        finding = asyncio.create_task(imported.find(texts, slices))
        while not finding.done():
            await asyncio.sleep(0)
            turns += 1
    assert texts == list(await finding)
    assert turns > len(texts)
