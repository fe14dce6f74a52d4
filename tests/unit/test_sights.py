"""Decoded records: how many are kept is a matter of their weight."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from keyauthority_server.store.sights import Decoder
from keyauthority_server.store.sql import LOOK_WHOLE
from keyauthority_server.store.sqlite import migrate, open_store
from tests.store.making import create, create_project, key, seal

MANY = tuple(f"{number:0100}" for number in range(100))  # weighs as much as several usual keys


async def test_heavy_key_takes_the_room_of_several(tmp_path: Path) -> None:
    """Those that made room are read whole again, and it is not while it is kept."""
    migrate(tmp_path / "keys.db")
    store = open_store(tmp_path / "keys.db", seal)
    project_id = (await create_project(store)).project_id
    light = [await create(store, key(project_id)) for _ in range(2)]
    heavy = await create(store, key(project_id, permissions=MANY))
    decoder, asked = Decoder(store._names_changed, keys=4), list[str]()

    def one(statement: str, values: Sequence[Any]) -> Any:
        asked.append(statement)
        return store._rows.one(statement, values)

    def read_whole(access_key: str) -> bool:
        asked.clear()
        assert decoder.look(one, access_key, None).held is not None
        return LOOK_WHOLE in asked

    first, second = (each.access_key for each in light)
    turns = (first, second, first, second, heavy.access_key, heavy.access_key, first)
    assert [True, True, False, False, True, False, True] == [read_whole(name) for name in turns]
    await store.close()
