"""Migrations: killed at each statement, raced by two starters, from each older version."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Final

import grpc
import pytest

from keyauthority_server.store.migrations import COUNTER_STEPS, STEPS
from keyauthority_server.store.sqlite.connection import sqlite3
from tests.faults.conftest import Ground
from tests.faults.oracle import Journal, judge
from tests.postgres import Cluster, execute
from tests.proofs import PROVE, Proof
from tests.service.callers import Caller, new_project, verify
from tests.service.forkserver import ForkServer
from tests.service.processes import ServerProcess, environment

pytestmark = pytest.mark.xdist_group("forkserver")  # one for all

STATEMENTS_MIN: Final = (
    20  # a migration of an empty database has more; otherwise another process was killed
)
UNDONE: Final = {
    "0003_usage": ("DROP TABLE usage", "DROP TABLE usage_batch"),
    "0004_audit": ("DROP TABLE refused", "DROP INDEX change_by_actor"),
    "0005_peppers": ("DROP INDEX key_by_pepper",),
    "0006_heartbeat": ("DROP TABLE heartbeat",),
    "0007_newest_entries": ("DROP INDEX change_of_project",),
    "0008_handover": ("DROP TABLE handover",),
    "0009_sealed_time": (
        "ALTER TABLE log DROP COLUMN time_hash",
        "ALTER TABLE log DROP COLUMN time_key_version",
    ),
    "0012_room_for_updates": (),
    "0013_imported_digests": (
        "DROP INDEX key_by_digest",
        "CREATE INDEX key_by_digest ON key (digest) WHERE import_set IS NOT NULL",
    ),
}
"""Statements that undo each step after those that every key needs."""
APPLIED: Final = {"sqlite": "_sqlite_migrations", "postgres": "keyauthority_migration"}
COUNTERS: Final = {step.name for step in COUNTER_STEPS}
KEYS: Final = 6

Execute = Callable[[str], Sequence[tuple[object, ...]]]


def start(place: str, *numbers: int) -> subprocess.Popen[str]:
    """Migrate in children of a process, each killed before its statement of a number."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.faults.migrating", place, *map(str, numbers)],
        stdout=subprocess.PIPE,
        env=environment(),
        text=True,
    )


def outcomes(process: subprocess.Popen[str]) -> list[str]:
    """Wait for it, and return how each child ended."""
    output, _ = process.communicate(timeout=100)
    assert 0 == process.returncode
    return output.split()


@pytest.fixture(params=["sqlite", "postgres"])
def engine(request: pytest.FixtureRequest) -> str:
    """Each engine in turn."""
    return str(request.param)


@pytest.fixture
def place(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """A place without a database of the authority."""
    if engine == "sqlite":
        return str(tmp_path / "keys.db")
    cluster: Cluster = request.getfixturevalue("cluster")
    return cluster.create()


def executing(engine: str, place: str) -> Execute:
    """Return a function that runs a statement on a database, committed at once."""

    def run(statement: str) -> Sequence[tuple[object, ...]]:
        if engine == "postgres":
            return execute(place, statement)
        with closing(sqlite3.connect(place, isolation_level=None)) as connection:
            return list(connection.execute(statement))

    return run


@pytest.mark.case(25)
def test_migration_killed_at_each_statement_is_all_or_nothing(
    engine: str, place: str, proof: Proof
) -> None:
    """A killed migration leaves nothing, and the next one starts from the beginning."""
    with start(place, *range(1, 200)) as killing:
        ended = []
        assert killing.stdout
        for line in killing.stdout:
            ended.append(line.strip())
            if ended[-1] == "done":
                break
            if engine == "postgres":
                made = execute(place, _OURS)
                assert [(0,)] == made, f"{made} tables after {len(ended)} statements"
        killing.kill()
    assert len(ended) > STATEMENTS_MIN
    assert ["killed"] * (len(ended) - 1) + ["done"] == ended
    ((logs,),) = executing(engine, place)("SELECT count(*) FROM log")
    assert 1 == logs
    proof.done(f"{engine}: killed before each of {len(ended) - 1} statements, made once")


_OURS: Final = (
    "SELECT count(*) FROM information_schema.tables WHERE table_schema = current_schema()"
)


@pytest.mark.case(25)
def test_killed_starter_of_two_leaves_one_migrated_database(
    engine: str, place: str, proof: Proof
) -> None:
    """The surviving starter does all steps once, for any time of the kill."""
    starters = [start(place, 9, 15, 0), start(place, 12, 0, 0)]
    ended = [outcomes(one) for one in starters]
    assert {"done"} == {one[-1] for one in ended}
    run = executing(engine, place)
    assert [(1,)] == run("SELECT count(*) FROM log")
    names = [row[0] for row in run(f"SELECT name FROM {APPLIED[engine]}")]  # noqa: S608
    assert [step.name for step in STEPS] == sorted(set(map(str, names)) - COUNTERS)
    proof.done(f"{engine}: children ended {ended}")


@pytest.mark.case(25)
@pytest.mark.parametrize("oldest", list(UNDONE) if PROVE else ["0003_usage"])
def test_database_of_each_older_version_is_upgraded_completely(
    engine: str, oldest: str, forks: ForkServer, ground: Ground, proof: Proof
) -> None:
    """A server upgrades a filled older schema; the oracle holds over its keys."""
    run = executing(engine, ground.url or str(ground.data / "keyauthority.db"))
    server = forks.start(ground.data, *ground.flags)
    journal = filled(server)
    server.stop()
    undo(run, engine, oldest)
    server = forks.start(ground.data, *ground.flags)
    try:
        with grpc.insecure_channel(server.address) as channel:
            caller = Caller(channel, server.metadata)
            judge(journal, caller, ground.store)
            verify(caller, journal.create(caller).secret_key)
    finally:
        server.stop()
    proof.done(f"{engine}: from before {oldest}, with {len(journal.lines)} operations in it")


def filled(server: ServerProcess) -> Journal:
    """Make keys, revoke half of them, and use them."""
    with grpc.insecure_channel(server.address) as channel:
        caller = Caller(channel, server.metadata)
        journal = Journal(new_project(caller))
        for number in range(KEYS):
            line = journal.create(caller)
            verify(caller, line.secret_key)
            if number % 2:
                journal.revoke(caller, line.access_key)
    return journal


def undo(run: Execute, engine: str, oldest: str) -> None:
    """Undo a step and all later ones, as the version before it left the database."""
    for name in reversed(UNDONE):
        if name >= oldest:
            for statement in UNDONE[name]:
                run(statement)
            run(f"DELETE FROM {APPLIED[engine]} WHERE name = '{name}'")  # noqa: S608
