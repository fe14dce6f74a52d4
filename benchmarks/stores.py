"""SQLite stores full of keys, kept for the next run: to fill one of ten million takes its time."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from keyauthority.clock import SystemClock
from keyauthority.model import ChangeType, Key, KeyKind, KeyMode
from keyauthority.token import make, new_access_key, new_secret
from keyauthority_server import bootstrap, config
from keyauthority_server.audit import sealer
from keyauthority_server.config import Config
from keyauthority_server.peppers import Keyring
from keyauthority_server.store.base import Transaction
from keyauthority_server.store.sqlite import SqliteStore, open_store
from keyauthority_server.store.values import Held, Mutation

NEEDED: Final = "orders:read"
TOKENS: Final = "tokens"  # the file of those that can be verified
VERIFIED: Final = 50_000  # tokens kept in it, of all that are made
BATCH: Final = 500  # keys in one transaction: a larger one may take seconds to commit
AT_ONCE: Final = 100_000  # keys between two looks at how many there are


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


async def filled(folder: Path, keys: int) -> Filled:
    """Return the store of so many keys below `folder`, made or gone on with."""
    data = folder / str(keys)
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    settings = config.load({"data": str(data)}, {})
    await bootstrap.prepare(settings)
    while await _fill_some(settings, keys):
        pass
    store = open_sealed(settings)
    (project,), _ = await store.list_projects(None, 0, 1)
    await store.close()
    tokens = (data / TOKENS).read_text(encoding="ascii").split()
    return Filled(settings, keys, project.project_id, tokens)


def open_sealed(settings: Config) -> SqliteStore:
    """Return the store itself, that makes changes as a server does."""
    audit_key = Keyring.load(settings.data / bootstrap.AUDIT_KEY)
    return open_store(settings.store.sqlite_path, sealer(audit_key))


async def _fill_some(settings: Config, wanted: int) -> bool:
    """Make some of the keys that are missing; False if there were none.

    Each has its entry in the log, as if it had been made by a call.
    """
    peppers = Keyring.load(settings.data / bootstrap.PEPPER)
    store = open_sealed(settings)
    (project,), _ = await store.list_projects(None, 0, 1)
    made = (await store.log_head()).revision - 2  # the first operator key and the project
    every = max(wanted // VERIFIED, 1)
    end = min(made + AT_ONCE, wanted)
    with (settings.data / TOKENS).open("a", encoding="ascii") as tokens:

        def work(first: int, transaction: Transaction) -> None:
            for place in range(first, min(first + BATCH, end)):
                held, token = _new_key(project.project_id, peppers)
                change = ChangeType.KEY_CREATED
                now = held.key.create_time
                transaction.apply(Mutation(type=change, time=now, actor="", peer="", keys=(held,)))
                if place % every == 0:
                    tokens.write(token + "\n")

        for first in range(made, end, BATCH):
            await store.write(partial(work, first))
    await store.close()
    return made < wanted


def _new_key(project_id: str, peppers: Keyring) -> tuple[Held, str]:
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
    return Held(key, peppers.digest(token.encode()), peppers.current, name), token
