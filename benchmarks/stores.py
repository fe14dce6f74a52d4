"""SQLite stores full of keys, kept for the next run: to fill one of ten million takes its time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, NamedTuple

from keyauthority.clock import SystemClock
from keyauthority.model import ChangeType, Key, KeyKind, KeyMode
from keyauthority.token import make, new_access_key, new_secret
from keyauthority_server import config
from keyauthority_server.audit import entry_signer
from keyauthority_server.config import Config
from keyauthority_server.keyring import Keyring
from keyauthority_server.runtime import bootstrap
from keyauthority_server.store.sql.queries.lists import list_projects
from keyauthority_server.store.sql.transaction import SqlTransaction
from keyauthority_server.store.sqlite.connection import WRITE_BUSY_MS, SqliteRows, connect
from keyauthority_server.store.sqlite.store import SqliteStore, open_store
from keyauthority_server.store.types import Actor, Mutation, StoredKey

NEEDED: Final = "orders:read"
TOKENS: Final = "tokens"  # the file of those that can be verified
VERIFIED: Final = 100_000  # tokens kept in it, of all that are made
BATCH: Final = 100_000  # keys in one transaction, which are lost if it is not finished
_HASTE: Final = (
    "PRAGMA synchronous = OFF",
    "PRAGMA cache_size = -4000000",  # KiB: the pages of ten million keys, most of them
    "PRAGMA wal_autocheckpoint = 1000",
)


Fields = Callable[[int], Mapping[str, Any]]
"""Fields of the key of a number, from 0 on."""


def _none(_: int) -> Mapping[str, Any]:
    return {}


class Filled(NamedTuple):
    """A data folder with so many keys, all in its project `default`."""

    settings: Config
    keys: int
    project_id: str
    tokens: list[str]
    """Keys from all over the store."""

    @property
    def megabytes(self) -> float:
        """The size of its files."""
        return sum(file.stat().st_size for file in self.settings.data.iterdir()) / 1e6


async def filled(folder: Path, keys: int, fields: Fields = _none) -> Filled:
    """Return the store of so many keys below `folder`, made or gone on with.

    `fields` gives fields of each key that are not as usual.
    """
    data = folder / str(keys)
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings = config.load({"data": str(data)}, {})
    await bootstrap.prepare(settings)
    store = open_sealed(settings)
    (project,), _ = await store.query(list_projects, None, 0, 1)
    made = (await store.log_head()).revision - 2  # the first operator key and the project
    await store.close()
    _fill(settings, project.project_id, range(made, keys), fields)
    tokens = (data / TOKENS).read_text(encoding="ascii").split()
    return Filled(settings, keys, project.project_id, tokens)


def open_sealed(settings: Config) -> SqliteStore:
    """Return the store itself, that makes changes as a server does."""
    audit_key = Keyring.load(settings.data / bootstrap.AUDIT_KEY)
    return open_store(settings.store.sqlite_path, entry_signer(audit_key))


def _fill(settings: Config, project_id: str, missing: range, fields: Fields) -> None:
    """Make the keys that are missing, each with its entry in the log as if by a call.

    Writes are not synced, so a power loss corrupts the store; no other process may have it open.
    """
    peppers = Keyring.load(settings.data / bootstrap.PEPPER)
    sign = entry_signer(Keyring.load(settings.data / bootstrap.AUDIT_KEY))
    every = max(missing.stop // VERIFIED, 1)
    with (
        (settings.data / TOKENS).open("a", encoding="ascii") as tokens,
        closing(connect(settings.store.sqlite_path, WRITE_BUSY_MS)) as connection,
    ):
        rows = SqliteRows(connection)
        for setting in _HASTE:
            rows.run(setting)
        for first in missing[::BATCH]:
            rows.run("BEGIN IMMEDIATE")
            transaction, sample = SqlTransaction(rows, sign), []
            for place in range(first, min(first + BATCH, missing.stop)):
                held, token = _new_key(project_id, peppers, fields(place))
                change, now = ChangeType.KEY_CREATED, held.key.create_time
                transaction.apply(Mutation(Actor(""), change, now, (held,)))
                if place % every == 0:
                    sample.append(token + "\n")
            transaction.finish()
            rows.run("COMMIT")
            tokens.writelines(sample)
            tokens.flush()


def _new_key(project_id: str, peppers: Keyring, fields: Mapping[str, Any]) -> tuple[StoredKey, str]:
    now = SystemClock().now()
    name = new_access_key()
    token = make(KeyKind.RESTRICTED, KeyMode.LIVE, name, new_secret()).reveal()
    key = Key(
        access_key=name,
        project_id=project_id,
        mode=KeyMode.LIVE,
        kind=KeyKind.RESTRICTED,
        purpose="nightly export",
        permissions=(NEEDED, "billing.*:read"),
        labels={"team": "shop"},
        create_time=now,
        update_time=now,
        created_by="KA000000000000000000",
        created_from="127.0.0.1",
        revision=0,
    )
    key = replace(key, **fields)
    return StoredKey(key, peppers.digest(token.encode()), peppers.current, name), token
