"""A store with rows in each table, and operations on its copies."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, NamedTuple
from uuid import uuid4

import pytest

from keyauthority import convert
from keyauthority.model import KeyKind, KeyMode, Quota, QuotaPeriod
from keyauthority.requests import NewKey
from keyauthority.token import SecretKey
from keyauthority_server import config
from keyauthority_server.commands import cli
from keyauthority_server.config import Config, StoreUrl
from keyauthority_server.runtime import bootstrap
from keyauthority_server.store import factory
from keyauthority_server.store.migrations import m0011_observations
from keyauthority_server.store.sql.queries.denied_mutations import record_denials
from keyauthority_server.store.sql.queries.observations import note_grants
from keyauthority_server.store.sql.tables import COUNTERS, TABLES
from keyauthority_server.store.transfer import Endpoint
from keyauthority_server.store.types import DeniedMutation, PermissionUse
from tests.faults.folders import Process
from tests.service.imports import import_set, item, new_token

SPENT: Final = 2  # of a quota of 3


class Kept(NamedTuple):
    """The content that a store must have after a copy."""

    project_id: str
    request_id: str
    access_key: str
    asked: SecretKey
    """The answer to `request_id`, with the access key before it."""
    revoked: SecretKey
    limited: SecretKey


def settings(data: Path, url: str) -> Config:
    """The configuration of a server on a store anywhere, with the keys of this folder."""
    return config.load({"data": str(data), "store": url}, {})


@asynccontextmanager
async def served(data: Path, url: str) -> AsyncIterator[Process]:
    """Start a server's process on a store, as one is started."""
    await bootstrap.prepare(settings(data, url))
    async with bootstrap.open_authority(settings(data, url), checkpoints=True) as authority:
        yield Process(authority, data)


def sqlite(data: Path, name: str = "keyauthority.db") -> str:
    """The URL of a file in a data folder."""
    return f"sqlite://{data / name}"


async def fill(data: Path) -> Kept:
    """Make records of every kind, and let all of it be written."""
    request_id = str(uuid4())
    async with served(data, sqlite(data)) as running:
        project_id = await running.project()
        asked = await running.create(project_id, request_id)
        revoked = await running.create(project_id)
        await running.revoke(revoked.key.access_key)
        assert "revoked" == await running.verdict(revoked.secret_key)
        new = NewKey(
            project_id=project_id,
            mode=KeyMode.LIVE,
            kind=KeyKind.SECRET,
            quota=Quota(limit=SPENT + 1, period=QuotaPeriod.TOTAL),
        )
        caller = await running.caller("keys:create")
        limited = await running.authority.keys.create(caller, new, b"limited")
        for _ in range(SPENT):
            assert "valid" == await running.verdict(limited.secret_key)
        for _ in range(9):
            await running.create(project_id)
        await running.authority.key_import.run(
            await running.caller("keys:import"),
            convert.import_set_from_proto(import_set("old-system")),
            [convert.imported_key_from_proto(item(new_token(), project_id))],
            validate_only=False,
        )
        now = datetime.now(UTC)
        one = DeniedMutation(now, 1, "somebody", "", "CreateKey", "PERMISSION_DENIED", "", "")
        store = running.authority.keys._context.store
        await store.write(lambda transaction: transaction.bookkeep(record_denials, [one]))
        await store.write(lambda transaction: _observe(transaction, asked.key.access_key, now))
    return Kept(
        project_id=project_id,
        request_id=request_id,
        access_key=asked.key.access_key,
        asked=asked.secret_key,
        revoked=revoked.secret_key,
        limited=limited.secret_key,
    )


def _observe(transaction: Any, access_key: str, now: datetime) -> None:
    """Store the use of a permission, and what the upgrade of an older database stores."""
    transaction.bookkeep(
        note_grants, access_key, [PermissionUse(access_key, "orders:read", now)], []
    )
    transaction.bookkeep(lambda rows: rows.run(m0011_observations._START))


@pytest.fixture(autouse=True)
def polite(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command makes its process nice, which the tests' own shall not be."""
    monkeypatch.setattr(os, "nice", lambda _: 0)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Kept]:
    """A data folder with something in each table."""
    data = tmp_path_factory.mktemp("filled") / "data"
    data.mkdir(mode=0o700)
    return data, asyncio.run(fill(data))


def run_copy(data: Path, *arguments: str) -> None:
    """Run the command in this process, outside any event loop; raises the error that refuses it."""
    command = ["copy", "--data", str(data), *arguments]
    with ThreadPoolExecutor(1) as thread:
        thread.submit(cli.main, command, standalone_mode=False).result()


def place(url: str, *, source: bool = False) -> Any:
    """One end of a copy, to be closed."""
    return closing(factory.open_endpoint(StoreUrl.parse(url), source=source))


def rows_of(opened: Endpoint) -> dict[str, list[Any]]:
    """All that a store holds, table by table."""
    held = {table.name: (table, opened.rows) for table in TABLES}
    held[COUNTERS.name] = (COUNTERS, opened.counters)
    return {
        name: [tuple(row) for row in rows.each(table.read, (table.before_all,))]
        for name, (table, rows) in held.items()
    }


def database_of(url: str) -> str:
    """The name of the database in a URL of the tests."""
    return url.partition("?")[0].rpartition("/")[2]
