"""Opening an authority: migration, first start, and the components of one process.

All checks of the data folder's files happen here, before a call is served. Each failure is one
line.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

import structlog

from keyauthority_server.audit import entry_signer, refusing
from keyauthority_server.change_feed import Feed, following
from keyauthority_server.config import Config, ConfigError, TransientError, refusal
from keyauthority_server.keyring import Keyring, KeyringError, check_known, newest_version
from keyauthority_server.metering.usage import metering
from keyauthority_server.private_files import (
    PASSING,
    check_private,
)
from keyauthority_server.records import (
    ExactFreshness,
    ProvenFreshness,
    RecordCache,
    heartbeat_seconds,
)
from keyauthority_server.services import Authority
from keyauthority_server.services.first_records import make_first_records, remove_made
from keyauthority_server.services.rehash import rehasher
from keyauthority_server.store import factory
from keyauthority_server.store.clocks import clock_of, report_silence
from keyauthority_server.store.counters import Counters
from keyauthority_server.store.interface import (
    Store,
    StoreDamaged,
    StoreDenied,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
    StoreUnusable,
)
from keyauthority_server.store.snapshots import FreshnessProver, LocalLog
from keyauthority_server.store.sql.queries.digests import versions_in_use
from keyauthority_server.store.types import Entry, EntrySigner, LogHead, NewestTime, VersionsInUse

PEPPER: Final = "pepper"
AUDIT_KEY: Final = "audit.key"
OPERATOR_KEY: Final = "operator.key"
_NO_THREAD: Final = "can't start new thread"  # of `Thread.start`
_KEY_FILES: Final = (PEPPER, AUDIT_KEY)
_log = structlog.get_logger("keyauthority_server")
_WRONG: Final = (KeyringError, StoreUnusable, StoreReadOnly, StoreDenied, StoreDamaged)


@contextmanager
def reported() -> Iterator[None]:
    """Convert failures of the store and of key files into one-line errors.

    Raises ConfigError if only a changed configuration helps, TransientError if the cause may pass.
    StoreUnavailable propagates, since a start may wait for the store.
    """
    try:
        yield
    except (KeyringError, StoreError) as failure:
        cause = failure.__cause__
        is_transient = isinstance(cause, OSError) and cause.errno in PASSING
        if isinstance(failure, _WRONG) and not is_transient:
            raise ConfigError(str(failure)) from failure
        if isinstance(failure, StoreUnavailable):
            raise
        prefix = "the disk is full or nearly so: " if isinstance(failure, StoreFull) else ""
        raise TransientError(f"{prefix}{failure}") from failure
    except RuntimeError as failure:
        if str(failure) != _NO_THREAD:
            raise
        raise TransientError(
            f"{failure}: raise the limit of processes (ulimit -u) or of memory"
        ) from failure


async def prepare(config: Config) -> bool:
    """Prepare the data folder and the store for workers; create them at the first start.

    Returns True if it created a new authority. Raises the errors of `reported`. After a kill at any
    point, the next call resumes.
    """
    with reported():
        return await _prepare(config)


@asynccontextmanager
async def open_authority(
    config: Config,
    *,
    checkpoints: bool,
    instrument: Callable[[Store, Counters], None] | None = None,
) -> AsyncIterator[Authority]:
    """Open the services on a prepared folder.

    Exactly one serving process has `checkpoints` set. `instrument` may wrap methods of the store
    and its counters.
    """
    peppers, audit_key = (Keyring.load(config.data / name) for name in _KEY_FILES)
    async with (
        _opened(config, entry_signer(audit_key), checkpoints=checkpoints) as store,
        _counters(config, checkpoints=checkpoints) as counters,
        metering(store) as meter,
        rehasher(store, peppers) as rehash,
        refusing(store) as denials,
        following(store) as feed,
        _caching(config, store, feed, peppers) as records,
    ):
        clock = await clock_of(store)
        audit_key.use(await store.key_checks())  # a version that was added waits for a start
        await rehash.reload_peppers()
        if instrument is not None:
            instrument(store, counters)
        yield Authority(
            *(store, counters, meter, clock, rehash, denials, feed, records),
            token_prefix=config.token_prefix,
        )


class AdminSession(NamedTuple):
    """Dependencies of an administrative command; a server may run."""

    store: Store
    peppers: Keyring
    key_checks: Mapping[str, bytes]
    """Check values of key versions, from the database."""


@asynccontextmanager
async def open_admin(config: Config) -> AsyncIterator[AdminSession]:
    """Open the store of an initialised data folder.

    Raises ConfigError if the folder is not initialised, or its key files are invalid.
    """
    with reported():
        if not factory.is_made(config.store):
            raise ConfigError(
                f"{config.data} is not initialised: run keyauthority-server init, or serve"
            )
        _check_private(config)
        keyrings = [Keyring.load(config.data / name) for name in _KEY_FILES]
        async with _opened(config, entry_signer(keyrings[1]), checkpoints=False) as store:
            if not (await store.log_head()).revision:
                raise ConfigError(
                    f"{config.data} is not initialised: run keyauthority-server init, or serve"
                )
            versions = await _versions_in_use(store)
            verify_against(keyrings, versions)
            for ring in keyrings:
                ring.use(versions.checks)
            yield AdminSession(store, keyrings[0], versions.checks)


class AuditSession(NamedTuple):
    """Dependencies of a log verification."""

    store: Store
    audit_key: Keyring


@asynccontextmanager
async def open_audit(config: Config) -> AsyncIterator[AuditSession]:
    """Open the store of a data folder for reading, even if its log was altered.

    A server may run. Raises ConfigError if the store cannot be read at all.
    """
    with reported():
        audit_key = Keyring.load(config.data / AUDIT_KEY)
        async with _opened(config, _refuse_to_sign, checkpoints=False, checked=False) as store:
            head = await store.log_head()
            unfinished = head.closed and not head.hash  # an unfinished copy lacks rows
            versions = await _versions_in_use(store)
            verify_against([audit_key], versions, empty=unfinished or not head.revision)
            yield AuditSession(store, audit_key)


def check_exists(config: Config) -> None:
    """Raise ConfigError if `must_exist` is set and a key file or the database is missing."""
    if not config.must_exist:
        return
    paths = [config.data / name for name in _KEY_FILES]
    if not config.store.is_postgres:
        paths.append(config.store.sqlite_path)
    for path in paths:
        try:
            size = path.lstat().st_size
        except OSError as error:
            raise ConfigError(f"--must-exist: {path} is missing: {error.strerror}") from error
        if not size:
            raise ConfigError(f"--must-exist: {path} is empty")


async def _prepare(config: Config) -> bool:
    """Prepare the folder; return True if that created an authority."""
    check_exists(config)
    _check_private(config)
    paths = [config.data / name for name in _KEY_FILES]
    if config.must_exist and not factory.is_made(config.store):
        raise ConfigError(f"--must-exist: {config.store} is empty")
    if paths[0].exists() and not factory.is_made(config.store):
        raise ConfigError(
            f"{paths[0]} exists, but {config.store} does not: restore the database, or start with "
            f"an empty data folder"
        )
    factory.migrate(config.store)
    async with _opened(config, _refuse_to_sign) as store:
        head = await store.log_head()
        versions, empty = await _versions_in_use(store), not head.revision
        _check_open(config, head)
    if config.must_exist and (empty or not versions.checks):
        raise ConfigError(f"--must-exist: {config.store} was never initialised")
    made: list[Path] = []
    if empty and not versions.checks:
        made = [path for path in paths if not path.exists()]
        for path in made:
            Keyring.create(path)
    elif not any(path.exists() for path in paths):
        raise _initialised_elsewhere(config)
    keyrings = [Keyring.load(path) for path in paths]
    checks: dict[str, bytes] = {}
    verify_against(keyrings, versions, empty=empty)
    for ring in keyrings:
        if not (ring.name == PEPPER and newest_version(PEPPER, versions.checks)):
            checks.update(ring.check_values())  # a version of the pepper waits for `pepper rotate`
    async with _opened(config, entry_signer(keyrings[1])) as store:
        try:
            await store.set_key_checks(checks)
        except StoreDamaged:  # or another server has signed its time with another audit key
            await _claim(config, store, keyrings, made)
            raise
        if empty:
            await _claim(config, store, keyrings, made)
        founded = empty and await _found(config, store, keyrings[0])
        await report_silence(store)
    return founded


async def _claim(
    config: Config, store: Store, keyrings: Sequence[Keyring], made: Sequence[Path]
) -> None:
    """Raise ConfigError if another server initialised the store with other key files.

    Removes the key files in `made`, which are useless then.
    """
    key_checks = await store.key_checks()
    try:
        for ring in keyrings:
            ring.verify_against(key_checks)
    except KeyringError:
        if not made:
            raise
        remove_made(made)
        raise _initialised_elsewhere(config) from None


def _initialised_elsewhere(config: Config) -> ConfigError:
    return ConfigError(
        f"{config.store} was initialised by another server: copy {PEPPER} and {AUDIT_KEY} to "
        f"{config.data} from its data folder, the one that holds {OPERATOR_KEY}, and start again"
    )


async def _versions_in_use(store: Store) -> VersionsInUse:
    """Return the versions for `verify_against`; no audit key has proven the newest time yet."""
    return await store.query(versions_in_use, (await clock_of(store, proven=False)).now())


async def _found(config: Config, store: Store, peppers: Keyring) -> bool:
    """Create the first records and log the new authority; False if another server did."""
    operator_key = config.data / OPERATOR_KEY
    if not await make_first_records(store, peppers, operator_key, config.token_prefix):
        return False
    _log.warning(
        "authority_founded",
        data=str(config.data),
        store=str(config.store),
        log_id=store.log_id,
        operator_key=str(operator_key),
    )
    return True


def verify_against(
    keyrings: Iterable[Keyring], versions: VersionsInUse, *, empty: bool = False
) -> None:
    """Raise KeyringError unless the key files match the database.

    A database that is not `empty` must have a check value for each version in use.
    """
    used = {PEPPER: versions.pepper, AUDIT_KEY: versions.audit_key}
    for ring in keyrings:
        if not empty:
            check_known(ring.name, versions.checks, used[ring.name])
        ring.verify_against(versions.checks)


def _check_open(config: Config, head: LogHead) -> None:
    """Raise StoreReadOnly if a copy closed the store: it would serve outdated records."""
    if head.closed and head.hash:
        raise StoreReadOnly(
            f"{config.store} was copied to another store and closed: serve the other store; or, if "
            f"this is the copy, run copy again"
        )
    if head.closed:
        raise StoreReadOnly(f"{config.store} is a copy that was not finished: run copy again")


def _check_private(config: Config) -> None:
    """Raise ConfigError if other users can read, write or redirect a private file."""
    names = (*_KEY_FILES, OPERATOR_KEY)
    groups: dict[int, Path] = {}
    for path in (*(config.data / name for name in names), *factory.files(config.store)):
        try:
            group = check_private(path)
        except OSError as error:
            raise refusal(error, f"cannot use {path}") from error
        if group is not None:
            groups.setdefault(group, path)
    for group, path in groups.items():
        _log.warning("open_to_group", path=str(path), gid=group)


@asynccontextmanager
async def _opened(
    config: Config, sign: EntrySigner, *, checkpoints: bool = True, checked: bool = True
) -> AsyncIterator[Store]:
    store = factory.open_store(config.store, sign, checkpoints=checkpoints, checked=checked)
    try:
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def _counters(config: Config, *, checkpoints: bool) -> AsyncIterator[Counters]:
    counters = factory.open_counters(config.store, checkpoints=checkpoints)
    try:
        yield counters
    finally:
        await counters.close()


@asynccontextmanager
async def _caching(
    config: Config, store: Store, feed: Feed, peppers: Keyring
) -> AsyncIterator[RecordCache]:
    """Open the record cache with the freshness rule of the store's engine."""
    if isinstance(store, LocalLog):
        yield RecordCache(store, ExactFreshness(store), peppers)
        return
    assert isinstance(store, FreshnessProver)  # noqa: S101 - each engine implements one of the two
    max_staleness = config.max_staleness.seconds
    await store.start_heartbeats(heartbeat_seconds(max_staleness))
    records = RecordCache(store, ProvenFreshness(store, feed, max_staleness), peppers)
    records.position = await feed.subscribe(records)
    store.deliver_commits(feed.committed)
    try:
        yield records
    finally:
        feed.unsubscribe(records)


def _refuse_to_sign(content: Entry | NewestTime, key_version: int | None = None) -> NoReturn:
    raise StoreUnusable("the audit key is not loaded yet: entries cannot be signed or verified")
