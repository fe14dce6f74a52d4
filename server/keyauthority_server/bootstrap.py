"""How a data folder comes to life: migration, first start, and the parts of one process.

Everything that can be wrong with the folder's files is found here, before anything is served, and
told in one line.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

import structlog

from keyauthority.model import ChangeType, Key, KeyKind, KeyMode, Project
from keyauthority.permissions import EVERYTHING
from keyauthority.token import make, new_access_key, new_secret, parse
from keyauthority_server.audit import refusing, sealer
from keyauthority_server.authority import Authority
from keyauthority_server.authority.redigesting import redigesting
from keyauthority_server.config import Config, ConfigError, TransientError, refusal
from keyauthority_server.feed import Feed, following
from keyauthority_server.peppers import (
    Keyring,
    KeyringError,
    check_known,
    newest_version,
)
from keyauthority_server.private_files import (
    PASSING,
    check_private,
    read_private,
    write_private,
)
from keyauthority_server.records import (
    ExactFreshness,
    ProvenFreshness,
    RecordCache,
    heartbeat_seconds,
)
from keyauthority_server.store import engines
from keyauthority_server.store.base import (
    Store,
    StoreClosed,
    StoreDamaged,
    StoreDenied,
    StoreError,
    StoreRefused,
    StoreUnavailable,
    Transaction,
)
from keyauthority_server.store.clocks import clock_of, report_silence
from keyauthority_server.store.counters import Counters
from keyauthority_server.store.looks import LocalLog, Proving
from keyauthority_server.store.values import (
    Entry,
    Held,
    LogHead,
    Mutation,
    NewestTime,
    Sealer,
    VersionsInUse,
)
from keyauthority_server.usage import metering

PEPPER: Final = "pepper"
AUDIT_KEY: Final = "audit.key"
OPERATOR_KEY: Final = "operator.key"
FIRST_PROJECT: Final = "default"
_KEY_FILES: Final = (PEPPER, AUDIT_KEY)
_log = structlog.get_logger("keyauthority_server")

_SETUP: Final = "setup"  # the actor of the first operator key: nobody called
_WRONG: Final = (KeyringError, StoreRefused, StoreClosed, StoreDenied, StoreDamaged)


@contextmanager
def reported() -> Iterator[None]:
    """Report failures of the store and of key files, each in one line.

    ConfigError for what only another configuration mends, TransientError for what may pass by
    itself; StoreUnavailable passes, since a start may wait for its end.
    """
    try:
        yield
    except (KeyringError, StoreError) as failure:
        cause = failure.__cause__
        passing = isinstance(cause, OSError) and cause.errno in PASSING
        if isinstance(failure, _WRONG) and not passing:
            raise ConfigError(str(failure)) from failure
        if isinstance(failure, StoreUnavailable):
            raise
        raise TransientError(str(failure)) from failure


async def prepare(config: Config) -> None:
    """Bring the data folder into the state that workers need, the first time from nothing.

    Raises as `reported` does. Killed at any point, it goes on where it was.
    """
    with reported():
        await _prepare(config)


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
        redigesting(store, peppers) as keeper,
        refusing(store) as refusals,
        following(store) as feed,
        _caching(config, store, feed, peppers) as records,
    ):
        clock = await clock_of(store)
        await keeper.learn()
        yield Authority(store, counters, meter, clock, keeper, refusals, feed, records)


class Machine(NamedTuple):
    """What a command on the machine itself works with, beside a server that may run."""

    store: Store
    peppers: Keyring
    known: Mapping[str, bytes]
    """The check values that the database holds."""


@asynccontextmanager
async def open_machine(config: Config) -> AsyncIterator[Machine]:
    """Give the store of a data folder that is in use, or was.

    Raises ConfigError with one line if it is not initialised, or its files are not right.
    """
    with reported():
        if not engines.is_made(config.store):
            raise ConfigError(
                f"{config.data} is not initialised: run keyauthority-server init, or serve"
            )
        _check_private(config)
        keyrings = [Keyring.load(config.data / name) for name in _KEY_FILES]
        async with _opened(config, sealer(keyrings[1]), checkpoints=False) as store:
            if not (await store.log_head()).revision:
                raise ConfigError(
                    f"{config.data} is not initialised: run keyauthority-server init, or serve"
                )
            versions = await _versions_in_use(store)
            recognise(keyrings, versions)
            known = versions.checks
            keyrings[0].use(known)
            yield Machine(store, keyrings[0], known)


class Evidence(NamedTuple):
    """What a verification of the log reads."""

    store: Store
    audit_key: Keyring


@asynccontextmanager
async def open_evidence(config: Config) -> AsyncIterator[Evidence]:
    """Give the store of a data folder for reading, whatever may be wrong with what its log says.

    A server may run on it. Raises ConfigError with one line if it cannot be read at all.
    """
    with reported():
        audit_key = Keyring.load(config.data / AUDIT_KEY)
        async with _opened(config, _unsealed, checkpoints=False, checked=False) as store:
            head = await store.log_head()
            unfinished = head.closed and not head.hash  # as a copy is, of which rows are missing
            versions = await _versions_in_use(store)
            recognise([audit_key], versions, empty=unfinished or not head.revision)
            yield Evidence(store, audit_key)


async def _prepare(config: Config) -> None:
    _check_private(config)
    paths = [config.data / name for name in _KEY_FILES]
    if paths[0].exists() and not engines.is_made(config.store):
        raise ConfigError(
            f"{paths[0]} is there, but {config.store} is not: restore the database, or start anew "
            f"in an empty data folder"
        )
    engines.migrate(config.store)
    async with _opened(config, _unsealed) as store:
        head = await store.log_head()
        versions, empty = await _versions_in_use(store), not head.revision
        _check_open(config, head)
    known = versions.checks
    made: list[Path] = []
    if empty and not known:
        made = [path for path in paths if not path.exists()]
        for path in made:
            Keyring.create(path)
    elif not any(path.exists() for path in paths):
        raise _initialised_elsewhere(config)
    keyrings = [Keyring.load(path) for path in paths]
    checks: dict[str, bytes] = {}
    recognise(keyrings, versions, empty=empty)
    for ring in keyrings:
        if not (ring.name == PEPPER and newest_version(PEPPER, known)):
            checks.update(ring.check_values())  # a version of the pepper waits for `pepper rotate`
    async with _opened(config, sealer(keyrings[1])) as store:
        await store.set_key_checks(checks)
        if empty:
            await _claim(config, store, keyrings, made)
            await _first_records(store, keyrings[0], config.data / OPERATOR_KEY)
        await report_silence(store)


async def _claim(
    config: Config, store: Store, keyrings: Sequence[Keyring], made: Sequence[Path]
) -> None:
    """Raise ConfigError if another server has just initialised the store under other key files.

    Those that this one made for it are of no use then, and are removed.
    """
    known = await store.key_checks()
    try:
        for ring in keyrings:
            ring.recognise(known)
    except KeyringError:
        if not made:
            raise
        _remove(made)
        raise _initialised_elsewhere(config) from None


def _initialised_elsewhere(config: Config) -> ConfigError:
    return ConfigError(
        f"{config.store} was initialised by another server: copy {PEPPER} and {AUDIT_KEY} to "
        f"{config.data} from its data folder, the one that holds {OPERATOR_KEY}, and start again"
    )


async def _versions_in_use(store: Store) -> VersionsInUse:
    """Return what `recognise` takes: no audit key has proven the newest time yet."""
    return await store.versions_in_use((await clock_of(store, proven=False)).now())


def recognise(keyrings: Iterable[Keyring], versions: VersionsInUse, *, empty: bool = False) -> None:
    """Raise KeyringError unless the key files are those that a database was filled under.

    One that is not empty has to know each version that it was filled under.
    """
    used = {PEPPER: versions.pepper, AUDIT_KEY: versions.audit_key}
    for ring in keyrings:
        if not empty:
            check_known(ring.name, versions.checks, used[ring.name])
        ring.recognise(versions.checks)


def _check_open(config: Config, head: LogHead) -> None:
    """Raise StoreClosed for a store that a copy has closed: a start on it would serve the past."""
    if head.closed and head.hash:
        raise StoreClosed(
            f"{config.store} was copied to another store and closed: serve that one; or, if this "
            f"is the copy, run copy again"
        )
    if head.closed:
        raise StoreClosed(f"{config.store} is a copy that was not finished: run copy again")


def _check_private(config: Config) -> None:
    """Raise ConfigError if others can read, write or redirect a file of the store, or a secret."""
    names = (*_KEY_FILES, OPERATOR_KEY)
    groups: dict[int, Path] = {}
    for path in (*(config.data / name for name in names), *engines.files(config.store)):
        try:
            group = check_private(path)
        except OSError as error:
            raise refusal(error, f"cannot use {path}") from error
        if group is not None:
            groups.setdefault(group, path)
    for group, path in groups.items():
        _log.warning("open_to_group", path=str(path), gid=group)


async def _first_records(store: Store, peppers: Keyring, path: Path) -> None:
    """Make the first operator key, in a file before it is in the database, and a project."""
    token_text, made = _first_operator_token(path)
    token = parse(token_text)
    if token is None or token.kind is not KeyKind.OPERATOR:
        raise ConfigError(f"{path} holds no operator key; remove it to have one made")

    now = (await clock_of(store)).now()

    def work(transaction: Transaction) -> bool:
        if transaction.head:
            return False  # another server of the same key files was first
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
        return True

    if not await store.write(work) and made:
        _remove([path])  # its key is in no store
        _log.warning("initialised_by_another_server", operator_key="in that server's data folder")


def _remove(made: Iterable[Path]) -> None:
    """Remove key files that this process has made and nothing was done under."""
    for path in made:
        path.unlink()


def _first_operator_token(path: Path) -> tuple[str, bool]:
    """Return the token in the file, and whether it was made: for its owner alone to read."""
    try:
        made = not path.exists()
        if made:
            secret_key = make(KeyKind.OPERATOR, KeyMode.LIVE, new_access_key(), new_secret())
            write_private(path, secret_key.reveal() + "\n")
        return read_private(path).strip(), made
    except OSError as error:
        raise refusal(error, f"cannot use {path}") from error
    except UnicodeDecodeError:
        return "", False  # no operator key


@asynccontextmanager
async def _opened(
    config: Config, seal: Sealer, *, checkpoints: bool = True, checked: bool = True
) -> AsyncIterator[Store]:
    store = engines.open_store(config.store, seal, checkpoints=checkpoints, checked=checked)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def _counters(config: Config, *, checkpoints: bool) -> AsyncIterator[Counters]:
    counters = engines.open_counters(config.store, checkpoints=checkpoints)
    try:
        yield counters
    finally:
        await counters.close()


@asynccontextmanager
async def _caching(
    config: Config, store: Store, feed: Feed, peppers: Keyring
) -> AsyncIterator[RecordCache]:
    """Give the record cache, with the rule of the store's engine for when it is current."""
    if isinstance(store, LocalLog):
        yield RecordCache(store, ExactFreshness(store), peppers)
        return
    assert isinstance(store, Proving)  # noqa: S101 - an engine offers one of the two
    max_staleness = config.max_staleness.seconds
    await store.prove_each(heartbeat_seconds(max_staleness))
    records = RecordCache(store, ProvenFreshness(store, feed, max_staleness), peppers)
    records.position = await feed.subscribe(records)
    try:
        yield records
    finally:
        feed.unsubscribe(records)


def _unsealed(content: Entry | NewestTime, key_version: int | None = None) -> NoReturn:
    raise StoreRefused("nothing can be sealed, or proven, before the audit key is known")
