"""Copying a store: complete or not started for every server, wherever it was interrupted."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import Any, Final

import pytest

from keyauthority_server.config import ConfigError
from keyauthority_server.runtime import bootstrap
from keyauthority_server.store import transfer
from keyauthority_server.store.interface import StoreReadOnly
from keyauthority_server.store.sql import tables
from keyauthority_server.store.sql.tables import COUNTERS, NOT_COPIED, TABLES
from keyauthority_server.store.transfer import Endpoint
from tests.faults.copies import (
    Kept,
    database_of,
    place,
    rows_of,
    run_copy,
    served,
    settings,
    sqlite,
)
from tests.faults.copies import filled as filled  # the fixture
from tests.faults.copies import polite as polite  # the fixture
from tests.postgres import Cluster
from tests.service.processes import environment

NEVER_COPIED: Final = NOT_COPIED | {"keyauthority_migration", "_sqlite_migrations"}


@pytest.fixture
def source(filled: tuple[Path, Kept], data: Path) -> str:
    """The URL of a copy of its own of `filled`, in `data`."""
    shutil.copytree(filled[0], data)
    return sqlite(data)


def test_every_table_and_column_of_both_engines_is_copied(source: str, cluster: Cluster) -> None:
    """The database catalogs list them, so that none is forgotten."""
    copied = {table.name: set(table.columns) for table in (*TABLES, COUNTERS)}
    target = cluster.take()
    with place(source) as one, place(target) as other:
        sqlite_columns = (
            "SELECT m.name, c.name FROM sqlite_schema AS m, pragma_table_info(m.name) AS c"
            " WHERE m.type = 'table'"
        )
        postgres_columns = (
            "SELECT table_name, column_name FROM information_schema.columns"
            " WHERE table_schema = 'public'"
        )
        for found in (
            [*one.rows.each(sqlite_columns), *one.counters.each(sqlite_columns)],
            other.rows.each(postgres_columns),
        ):
            tables = {name for name, _ in found} - NEVER_COPIED
            assert copied == {
                table: {column for name, column in found if name == table} for table in tables
            }
    cluster.release()


async def test_copy_between_engines_keeps_everything(
    source: str, data: Path, filled: tuple[Path, Kept], cluster: Cluster
) -> None:
    """SQLite to PostgreSQL, to another, back, to a file: log, keys, counters, usage."""
    kept = filled[1]
    places = [source, cluster.create(), cluster.create(), *(sqlite(data, f"{n}.db") for n in "ab")]
    for spent, (old, new) in enumerate(pairwise(places)):
        with place(old) as opened:
            before, head = rows_of(opened), transfer.head_of(opened)
        run_copy(data, "--from", old, "--to", new)
        with place(new) as opened:
            assert before == rows_of(opened)
            assert head == transfer.head_of(opened)
        assert all(before[table] for table in before)
        async with served(data, new) as running:
            assert head.log_id == running.authority.keys._context.store.log_id
            assert "valid" == await running.verdict(kept.asked)
            assert "revoked" == await running.verdict(kept.revoked)
            expected = "quota_exceeded" if spent else "valid"
            assert expected == await running.verdict(kept.limited)
            again = await running.create(kept.project_id, kept.request_id)
            assert kept.asked == again.secret_key
            made = await running.create(kept.project_id)
            assert head.revision + 1 == made.revision
            assert "valid" == await running.verdict(made.secret_key)
        with place(new) as opened:  # its usage has come, with ids behind those that were copied
            assert made.key.access_key in {row[3] for row in rows_of(opened)["usage"]}
        with pytest.raises(ConfigError, match="copied to another store and closed"):
            await bootstrap.prepare(settings(data, old))


async def test_server_on_a_closed_source_verifies_and_refuses_writes(
    source: str, data: Path, filled: tuple[Path, Kept]
) -> None:
    """Changes fail with STORE_CLOSED, bookkeeping stops, and Verify works."""
    kept = filled[1]
    async with served(data, source) as running:
        run_copy(data, "--from", source, "--to", sqlite(data, "new.db"))
        with place(source) as opened:
            before = rows_of(opened)
        assert "valid" == await running.verdict(kept.asked)
        assert "revoked" == await running.verdict(kept.revoked)
        with pytest.raises(StoreReadOnly):
            await running.create(kept.project_id)
        with pytest.raises(StoreReadOnly):
            await running.revoke(kept.access_key)
    with place(source) as opened:  # the process has flushed its usage, or would have
        assert before == rows_of(opened)


class Ended(BaseException):
    """The process ended here."""


def end_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Let the next copy end when it asks for its step of this number."""
    counted = count()
    real = transfer._pages

    def pages(*given: Any) -> Iterator[Any]:
        for page in real(*given):
            if next(counted) == steps:
                raise Ended
            yield page

    monkeypatch.setattr(transfer, "_pages", pages)


@pytest.mark.parametrize(("engine", "every"), [("sqlite", 1), ("postgres", 5)])
async def test_interrupted_copy_resumes_and_is_not_served_before(
    engine: str,
    every: int,
    source: str,
    data: Path,
    cluster: Cluster,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A target interrupted at any page is refused; the last run completes it."""
    monkeypatch.setattr(tables, "PAGE_ROWS", 4)
    monkeypatch.setattr(transfer, "COMMITTED_PAGES", 2)
    target = cluster.create() if engine == "postgres" else sqlite(data, "new.db")
    with place(source) as opened:
        before = rows_of(opened)
    for steps in count(0, every):
        with monkeypatch.context() as patched:
            end_after(patched, steps)
            try:
                run_copy(data, "--from", source, "--to", target)
            except Ended:
                pass
            else:
                break
        if steps % 5 == 0:
            with pytest.raises(ConfigError, match="run copy again"):
                await bootstrap.prepare(settings(data, target))
            with pytest.raises(ConfigError, match=r"not finished|closed for a copy"):
                run_copy(data, "--from", target, "--to", sqlite(data, f"third-{steps}.db"))
    assert steps > 15
    with place(target) as opened:
        assert before == rows_of(opened)
    async with served(data, target) as running:
        await running.head()


def test_killed_copy_resumes(source: str, data: Path, cluster: Cluster) -> None:
    """Rows committed before kill -9 are present once."""
    target = cluster.create()
    program = (
        "import os, signal\n"
        "from keyauthority_server import commands\n"
        "from keyauthority_server.store import transfer\n"
        "transfer.compare = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "commands.main()"
    )
    flags = ["copy", "--data", str(data), "--from", source, "--to", target]
    done = subprocess.run(
        [sys.executable, "-c", program, *flags],
        capture_output=True,
        check=False,
        env=environment(),
        timeout=60,
    )
    assert -signal.SIGKILL == done.returncode, done.stderr
    run_copy(data, "--from", source, "--to", target)
    with place(source) as one, place(target) as other:
        assert rows_of(one) == rows_of(other)


def test_altered_copy_is_not_opened(source: str, data: Path, cluster: Cluster) -> None:
    """Rows are compared: a changed or added one is reported with its table."""
    target = cluster.create()
    for table, statement, undo in (
        (
            "key",
            "UPDATE key SET purpose = 'x' WHERE kind = 'secret'",
            "UPDATE key SET purpose = NULL WHERE kind = 'secret'",
        ),
        (
            "usage_batch",
            "INSERT INTO usage_batch VALUES ('z', 1)",
            "DELETE FROM usage_batch WHERE batch_id = 'z'",
        ),
    ):
        with pytest.MonkeyPatch.context() as patched:
            real = transfer.compare

            def compare(one: Endpoint, other: Endpoint, *rest: Any, _told: str = statement) -> Any:
                other.rows.run(_told)
                return real(one, other, *rest)  # noqa: B023 - called before the next turn

            patched.setattr(transfer, "compare", compare)
            with pytest.raises(ConfigError, match=f"the table {table}"):
                run_copy(data, "--from", source, "--to", target)
        cluster.execute(undo, database_of(target))


def test_source_with_a_broken_chain_is_not_copied(
    source: str, data: Path, cluster: Cluster
) -> None:
    """The chain is verified at the target; the source can be reopened."""
    target = cluster.create()
    with place(source) as opened:
        opened.rows.run("UPDATE key SET permissions = '[\"a:b\"]' WHERE kind = 'secret'")
    with pytest.raises(ConfigError, match="stays closed, its log was altered"):
        run_copy(data, "--from", source, "--to", target)
    run_copy(data, "--abandon", "--from", source, "--to", target)
    with place(source) as one, place(target) as other:
        assert [False, True] == [transfer.head_of(end).closed for end in (one, other)]


async def test_abandoned_copy_reopens_its_source(
    source: str,
    data: Path,
    filled: tuple[Path, Kept],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The source takes changes again; the partial target is not served or resumed."""
    target = sqlite(data, "new.db")
    monkeypatch.setattr(transfer, "compare", lambda *_: (_ for _ in ()).throw(Ended))
    with pytest.raises(Ended):
        run_copy(data, "--from", source, "--to", target)
    monkeypatch.undo()
    monkeypatch.setattr(os, "nice", lambda _: 0)
    other = sqlite(data, "other.db")
    with pytest.raises(ConfigError, match="there is no store at"):
        run_copy(data, "--abandon", "--from", source, "--to", other)
    used = tmp_path / "used"
    used.mkdir(mode=0o700)
    await bootstrap.prepare(settings(used, sqlite(used)))
    with pytest.raises(ConfigError, match="no copy of this source"):
        run_copy(data, "--abandon", "--from", source, "--to", sqlite(used))
    run_copy(data, "--abandon", "--from", source, "--to", target)
    async with served(data, source) as running:
        await running.create(filled[1].project_id)
        with pytest.raises(ConfigError, match="nor an unfinished copy of this source"):
            run_copy(data, "--from", source, "--to", target)
        await running.create(filled[1].project_id)  # and was not closed for it
    run_copy(data, "--from", source, "--to", other)
    with pytest.raises(ConfigError, match="the copy was finished"):
        run_copy(data, "--abandon", "--from", source, "--to", other)
    with pytest.raises(ConfigError, match="a finished copy"):
        run_copy(data, "--from", source, "--to", other)


def test_unfit_copy_endpoints_are_refused_unchanged(
    source: str, data: Path, cluster: Cluster, tmp_path: Path
) -> None:
    """An empty source, equal ends, a foreign audit key, a target in use."""
    empty = cluster.take()
    again = sqlite(data, "../data/keyauthority.db")
    with pytest.raises(ConfigError, match="the same database"):
        run_copy(data, "--from", source, "--to", again)
    used = tmp_path / "used"
    used.mkdir(mode=0o700)
    asyncio.run(bootstrap.prepare(settings(used, sqlite(used))))
    with pytest.raises(ConfigError, match="neither empty"):
        run_copy(data, "--from", source, "--to", sqlite(used))
    with pytest.raises(ConfigError, match=r"audit\.key"):
        run_copy(used, "--from", source, "--to", empty)
    with pytest.raises(ConfigError, match="the source is empty"):
        run_copy(data, "--from", empty, "--to", sqlite(data, "new.db"))
    with place(source) as opened:
        assert not transfer.head_of(opened).closed
    cluster.release()
