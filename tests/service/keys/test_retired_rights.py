"""Operator keys stored by an older version with permissions that are not rights."""

from __future__ import annotations

from pathlib import Path

import pytest

from keyauthority.errors import InvalidArgument
from keyauthority.model import KeyKind
from keyauthority.requests import KeyUpdate, NewKey, Rotation
from keyauthority_server.runtime.bootstrap import prepare
from tests.faults.folders import process, settings


async def test_stored_key_with_an_unknown_right_stays_usable(tmp_path: Path) -> None:
    """It can be read, changed and rotated; only granting such a right again is rejected."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    await prepare(settings(folder))
    async with process(folder) as one:
        authority, caller = one.authority, await one.caller("operators:create")
        new = NewKey(project_id="", kind=KeyKind.OPERATOR, permissions=("keys:verfy",))
        name = (await authority.keys.create(caller, new, b"")).key.access_key
        assert ("keys:verfy",) == (await authority.keys.get(caller, name)).permissions
        renamed = KeyUpdate(access_key=name, paths=frozenset({"purpose"}), purpose="old")
        assert "old" == (await authority.updates.key(caller, renamed)).key.purpose
        again = KeyUpdate(
            access_key=name, paths=frozenset({"permissions"}), permissions=("keys:verfy",)
        )
        with pytest.raises(InvalidArgument, match="the rights are"):
            await authority.updates.key(caller, again)
        rotated = await authority.key_rotation.rotate(caller, Rotation(access_key=name), b"")
        assert ("keys:verfy",) == rotated.key.permissions
