"""Replaced, cut or altered files are noticed and refused, never read as a newer state.

The newest change of each image is a revocation, which would be lost first.
"""

from __future__ import annotations

import asyncio
import os
import random
import re
import resource
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from keyauthority.model import ChangeType, Key, RevokeReason
from keyauthority_server.store.interface import (
    StoreDamaged,
    StoreError,
    StoreUnavailable,
    StoreUnusable,
)
from keyauthority_server.store.sql import record_decoder
from keyauthority_server.store.sql.integrity import compared_key
from keyauthority_server.store.sql.queries.lists import list_projects
from keyauthority_server.store.sql.statements import EVIDENCE_WIDTH
from keyauthority_server.store.sqlite.connection import FileIdentity, StoreBroken
from keyauthority_server.store.sqlite.rollback_guard import head_path
from keyauthority_server.store.sqlite.store import SqliteStore, open_store
from keyauthority_server.store.types import StoredKey
from tests.store.engines import Sqlite
from tests.store.factories import NOON, SECOND, create, create_project, key, put, sign

KEYS: Final = 20
FLIPS: Final = 30 * int(os.environ.get("PROVE", "1"))
SQLITE: Final = Sqlite()


class Image(NamedTuple):
    """The files of a store whose processes were all killed, and their content."""

    path: Path
    keys: dict[str, Key]
    revoked: str
    """The access key whose revocation is the newest change."""

    @property
    def log(self) -> Path:
        """The write-ahead log."""
        return self.path.with_name(self.path.name + "-wal")


@pytest.fixture
async def image(tmp_path: Path) -> Image:
    """Files as kill -9 leaves them: the newest changes are in the write-ahead log only."""
    living, killed = tmp_path / "living", tmp_path / "killed"
    living.mkdir()
    store = open_store(Path(SQLITE.make(living)), sign)
    owner = (await create_project(store)).project_id
    made = [await create(store, key(owner, purpose=f"key {one}")) for one in range(KEYS)]
    SQLITE.rows(str(living / "keys.db"), "PRAGMA wal_checkpoint(TRUNCATE)")
    ended = replace(made[0], revoke_time=NOON, revoke_reason=RevokeReason.LEAKED)
    await put(store, ChangeType.KEY_REVOKED, ended, time=NOON + SECOND)
    shutil.copytree(living, killed)
    keys = {}
    for one in made:
        stored = await store.get_key(one.access_key, None)
        assert stored is not None
        keys[one.access_key] = stored
    await store.close()
    return Image(killed / "keys.db", keys, ended.access_key)


@contextmanager
def opened(path: Path) -> Iterator[SqliteStore]:
    """Open a store for the block, in a loop of its own."""
    store = open_store(path, sign)
    try:
        yield store
    finally:
        asyncio.run(store.close())


def cut_log(image: Image) -> None:
    """Cut the write-ahead log in the midst of its last change."""
    os.truncate(image.log, image.log.stat().st_size - 1)


def empty_log(image: Image) -> None:
    """Leave nothing of the write-ahead log."""
    os.truncate(image.log, 0)


def unlink_log(image: Image) -> None:
    """Remove the write-ahead log."""
    image.log.unlink()


def flip_in_log(image: Image) -> None:
    """Alter one byte of the write-ahead log's last page."""
    flip(image.log, image.log.stat().st_size - 100)


def flip(path: Path, place: int, mask: int = 1) -> None:
    """Alter one byte of a file."""
    with path.open("r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ mask]))


async def told_wrong(image: Image) -> set[str]:
    """Return the keys of an image that its store reports wrongly, without an error."""
    wrong: set[str] = set()
    try:
        store = open_store(image.path, sign)
    except StoreUnusable:
        return wrong
    for access_key, expected in image.keys.items():
        with suppress(StoreError):
            found = await store.get_key(access_key, None)
            if found is not None and found != expected:
                wrong.add(access_key)
    await store.close()
    return wrong


def test_undamaged_image_opens(image: Image) -> None:
    """The files after kill -9 are complete, including the revocation."""
    with opened(image.path) as store:
        found = asyncio.run(store.get_key(image.revoked, None))
    assert found == image.keys[image.revoked]
    assert found.revoke_time == NOON


@pytest.mark.case(23)
@pytest.mark.parametrize("damage", [cut_log, empty_log, unlink_log, flip_in_log])
def test_log_with_a_cut_end_is_refused(damage: Callable[[Image], None], image: Image) -> None:
    """The store does not open it, although SQLite alone would."""
    damage(image)
    with pytest.raises(StoreUnusable, match="acknowledged"):
        open_store(image.path, sign)
    head_path(image.path).unlink()
    with opened(image.path) as store:
        found = asyncio.run(store.get_key(image.revoked, None))
    assert found is not None
    assert found.revoke_time is None  # the control: the key would be back


@pytest.mark.case(23)
def test_database_of_another_log_is_refused(image: Image, tmp_path: Path) -> None:
    """A database copied over another one is detected."""
    other = Path(SQLITE.make(tmp_path))
    image.log.unlink()
    shutil.copyfile(other, image.path)
    with pytest.raises(StoreUnusable, match="was replaced"):
        open_store(image.path, sign)


def test_head_that_contradicts_the_last_entry_is_refused(image: Image) -> None:
    """Counter row and last entry of the log must agree."""
    for statement in ("UPDATE log SET revision = 7", "UPDATE log SET hash = x'00'"):
        SQLITE.rows(str(image.path), statement)
        with pytest.raises(StoreUnusable, match="damaged"):
            open_store(image.path, sign)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE key SET revoke_time = NULL WHERE revoke_time IS NOT NULL",
        "UPDATE key SET permissions = '[' WHERE revoke_time IS NOT NULL",
        "UPDATE key SET revision = 2 WHERE revoke_time IS NOT NULL",
    ],
)
def test_record_that_contradicts_its_entry_is_neither_verified_nor_changed(
    image: Image, statement: str
) -> None:
    """Its state is unknown; a change would copy the damage into the log."""
    SQLITE.rows(str(image.path), statement)
    with opened(image.path) as store:
        with pytest.raises(StoreDamaged):
            asyncio.run(store.read(image.revoked, None))
        with pytest.raises(StoreDamaged):
            asyncio.run(store.read_many([image.revoked], None))
        with pytest.raises(StoreDamaged):
            asyncio.run(put(store, ChangeType.KEY_UPDATED, image.keys[image.revoked]))
        assert asyncio.run(store.get_key(list(image.keys)[1], None))


@pytest.mark.case(23)
async def test_single_altered_byte_never_changes_a_records_meaning(
    image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For every byte of the file: the truth, no such key, or no answer."""
    SQLITE.rows(str(image.path), "PRAGMA wal_checkpoint(TRUNCATE)")
    whole, head = image.path.read_bytes(), head_path(image.path).read_bytes()
    drawn = random.Random(seed := random.randrange(2**32))
    purposes = [place.start() for place in re.finditer(rb"key 1\d", whole)]
    places = [drawn.randrange(len(whole)) for _ in range(FLIPS)]
    for place in (*places, *purposes[:2]):
        image.path.write_bytes(whole)
        head_path(image.path).write_bytes(head)
        flip(image.path, place, 1 << drawn.randrange(8))
        assert set() == await told_wrong(image), f"seed {seed}, byte {place}"

    def believe(row: Sequence[Any]) -> StoredKey:  # the control
        return compared_key(row[:-EVIDENCE_WIDTH])

    monkeypatch.setattr(record_decoder, "stored_key", believe)
    wrong: set[str] = set()
    while not wrong and purposes:
        image.path.write_bytes(whole)
        flip(image.path, purposes.pop())
        wrong = await told_wrong(image)
    assert wrong


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (rb"20\d\d-\d\d-\d\d \d\d:", "is damaged"),
        (rb"INTEGER", "is damaged, or not a SQLite database"),
    ],
    ids=["a value", "the schema"],
)
def test_altered_byte_that_breaks_text_is_refused(image: Image, text: bytes, told: str) -> None:
    """Unreadable data at open is reported as damage."""
    SQLITE.rows(str(image.path), "PRAGMA wal_checkpoint(TRUNCATE)")
    for found in re.finditer(text, image.path.read_bytes()):
        flip(image.path, found.start(), 0x80)
    with pytest.raises(StoreUnusable, match=told):
        open_store(image.path, sign)


@pytest.mark.case(23)
@pytest.mark.parametrize("name", ["keys.db", "keys.db-wal"])
def test_file_removed_while_open_is_noticed(image: Image, name: str) -> None:
    """Unlinked or replaced: the next write and every later read fail."""
    file = image.path.with_name(name)
    for exchange in (Path.unlink, _replace):
        with opened(image.path) as store:
            kept = file.read_bytes()
            exchange(file)
            with pytest.raises(StoreUnavailable):
                asyncio.run(create_project(store))
            with pytest.raises(StoreUnavailable):
                asyncio.run(store.read(image.revoked, None))
            file.write_bytes(kept)
            file.chmod(0o600)


def _replace(file: Path) -> None:
    other = file.with_name("other")
    shutil.copyfile(file, other)
    other.replace(file)


@pytest.mark.case(23)
def test_database_truncated_while_open_is_noticed(image: Image) -> None:
    """The server's database never shrinks by itself."""
    with opened(image.path):
        identity = FileIdentity(image.path)
        identity.check()
        os.truncate(image.path, image.path.stat().st_size - 4096)
        with pytest.raises(StoreBroken):
            identity.check()
    assert identity.lost


@pytest.mark.case(20)
def test_write_refused_by_the_device_is_the_last(image: Image) -> None:
    """The write and all later ones fail, and nothing of it is stored."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with opened(image.path) as store:
        asyncio.run(create_project(store, display_name="before"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (image.log.stat().st_size + 1, hard))
        try:
            with pytest.raises(StoreUnavailable):
                asyncio.run(create_project(store, display_name="refused"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        with pytest.raises(StoreUnavailable, match="restart the server"):
            asyncio.run(create_project(store, display_name="after"))
        assert asyncio.run(store.get_key(image.revoked, None)) == image.keys[image.revoked]
    with opened(image.path) as store:
        projects, _ = asyncio.run(store.query(list_projects, None, 0, 10))
    assert ["", "before"] == [one.display_name for one in projects]
