"""How a data folder comes to life: migration, first start, and the parts of one process.

Everything that can be wrong with the folder's files is found here, before anything is served, and
told in one line.
"""

from __future__ import annotations

import hmac
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, NoReturn

from keyauthority.clock import SystemClock
from keyauthority.model import ChangeType, Key, KeyKind, KeyMode, Project
from keyauthority.permissions import EVERYTHING
from keyauthority.token import make, new_access_key, new_secret, parse
from keyauthority_server.audit import sealer
from keyauthority_server.authority import Authority
from keyauthority_server.config import Config, ConfigError
from keyauthority_server.peppers import Keyring, KeyringError, read_private, write_private
from keyauthority_server.store.base import Store, StoreError, StoreRefused, Transaction
from keyauthority_server.store.counters import Counters
from keyauthority_server.store.sqlite import migrate, open_counters, open_store
from keyauthority_server.store.values import Entry, Held, Mutation, Sealer
from keyauthority_server.usage import metering

PEPPER: Final = "pepper"
AUDIT_KEY: Final = "audit.key"
OPERATOR_KEY: Final = "operator.key"
FIRST_PROJECT: Final = "default"
_KEY_FILES: Final = (PEPPER, AUDIT_KEY)
_SETUP: Final = "setup"  # the actor of the first operator key: nobody called


async def prepare(config: Config) -> None:
    """Bring the data folder into the state that workers need, the first time from nothing.

    Raises ConfigError with one line if it cannot. Killed at any point, it goes on where it was.
    """
    try:
        await _prepare(config)
    except (KeyringError, StoreError) as failure:
        raise ConfigError(str(failure)) from failure


@asynccontextmanager
async def open_authority(config: Config, *, checkpoints: bool) -> AsyncIterator[Authority]:
    """Give the use cases on the prepared folder, for as long as the context lasts.

    Exactly one of the processes that serve it runs `checkpoints`.
    """
    peppers, audit_key = (Keyring.load(config.data / name) for name in _KEY_FILES)
    async with (
        _opened(config, sealer(audit_key), checkpoints=checkpoints) as store,
        _counters(config, checkpoints=checkpoints) as counters,
        metering(store) as meter,
    ):
        clock = SystemClock(await store.newest_time())
        yield Authority(store, counters, meter, clock, peppers)


async def _prepare(config: Config) -> None:
    paths = [config.data / name for name in _KEY_FILES]
    database = config.store.sqlite_path
    if paths[0].exists() and not database.exists():
        raise ConfigError(
            f"{paths[0]} is there, but {database} is not: restore the database, or start anew in "
            f"an empty data folder"
        )
    migrate(database)
    async with _opened(config, _unsealed) as store:
        known, empty = await store.key_checks(), await store.newest_time() is None
    if empty and not known:
        for path in paths:
            if not path.exists():
                Keyring.create(path)
    keyrings = [Keyring.load(path) for path in paths]
    _recognise(keyrings, known, config.data)
    async with _opened(config, sealer(keyrings[1])) as store:
        await store.set_key_checks(
            {name: value for ring in keyrings for name, value in ring.check_values().items()}
        )
        if empty:
            await _first_records(store, keyrings[0], config.data / OPERATOR_KEY)


def _recognise(keyrings: Sequence[Keyring], known: Mapping[str, bytes], data: Path) -> None:
    """Raise ConfigError if a key file is not the one that the database was filled under."""
    for name, value in known.items():
        ring = next(one for one in keyrings if one.name == name.partition("/")[0])
        own = ring.check_values().get(name)
        if own is None or not hmac.compare_digest(own, value):
            raise ConfigError(
                f"{data / ring.name} is not the one that the database was filled under: put the "
                f"right one back (version {name.partition('/')[2]})"
            )


async def _first_records(store: Store, peppers: Keyring, path: Path) -> None:
    """Make the first operator key, in a file before it is in the database, and a project."""
    token_text = _first_operator_token(path)
    token = parse(token_text)
    if token is None or token.kind is not KeyKind.OPERATOR:
        raise ConfigError(f"{path} holds no operator key; remove it to have one made")

    def work(transaction: Transaction) -> None:
        now = SystemClock().now()
        key = Key(
            access_key=token.access_key,
            project_id="",
            mode=KeyMode.LIVE,
            kind=KeyKind.OPERATOR,
            purpose="first operator key",
            permissions=EVERYTHING,
            create_time=now,
            update_time=now,
            created_by=_SETUP,
            revision=0,
        )
        digest = peppers.digest(token_text.encode())
        held = Held(key, digest, peppers.current, lineage=key.access_key)
        project = Project(
            project_id=str(uuid.uuid4()),
            display_name=FIRST_PROJECT,
            create_time=now,
            update_time=now,
            revision=0,
        )
        for change in (
            Mutation(type=ChangeType.KEY_CREATED, time=now, actor=_SETUP, peer="", keys=(held,)),
            Mutation(
                type=ChangeType.PROJECT_CREATED, time=now, actor=_SETUP, peer="", project=project
            ),
        ):
            transaction.apply(change)

    await store.write(work)


def _first_operator_token(path: Path) -> str:
    """Return the token in the file; a new one, made so that only its owner reads it, if none."""
    if not path.exists():
        secret_key = make(KeyKind.OPERATOR, KeyMode.LIVE, new_access_key(), new_secret())
        write_private(path, secret_key.reveal() + "\n")
    return read_private(path).strip()


@asynccontextmanager
async def _opened(
    config: Config, seal: Sealer, *, checkpoints: bool = True
) -> AsyncIterator[Store]:
    store = open_store(config.store.sqlite_path, seal, checkpoints=checkpoints)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def _counters(config: Config, *, checkpoints: bool) -> AsyncIterator[Counters]:
    counters = open_counters(config.store.sqlite_path, checkpoints=checkpoints)
    try:
        yield counters
    finally:
        await counters.close()


def _unsealed(entry: Entry) -> NoReturn:
    raise StoreRefused(f"change {entry.revision} cannot be made before the audit key is known")
