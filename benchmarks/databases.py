"""A PostgreSQL on the servers' core, and the cost of a bare commit."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

import psycopg
import pysqlite3 as sqlite3

from benchmarks.run import Measure, Run, on_core, steps_a_second
from tests.postgres import Cluster, running_cluster
from tests.service.processes import children

BLOCK: Final = b"x" * 4_096  # bytes that are written before each bare sync
ROW: Final = b"x" * 300  # bytes of each bare commit: some more than a change's are

_DURABLE: Final = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
_TABLE: Final = "CREATE TABLE bare (id INTEGER PRIMARY KEY, row {})"


@contextmanager
def postgres(run: Run, *, durable: bool = False) -> Iterator[Cluster]:
    """Give a PostgreSQL on the servers' core; its commits wait for the disk if `durable`."""
    with running_cluster() as cluster:
        if durable:
            cluster.stop()
            cluster.start(**_DURABLE)
        postmaster = cluster.postmaster
        for pid in (postmaster, *children(postmaster)):
            os.sched_setaffinity(pid, {run.server_core})  # those that it starts have it from it
        yield cluster


def bare_sync(run: Run) -> Measure:
    """Measure how often a second 4 KiB are appended to a file and synced."""

    def measure() -> float:
        with on_core(run.server_core), (run.folder / "bare").open("ab", buffering=0) as file:

            def step() -> None:
                file.write(BLOCK)
                os.fsync(file.fileno())

            return steps_a_second(step, run.seconds)

    return measure


def bare_sqlite(run: Run, stack: ExitStack, longer: float = 0) -> Measure:
    """Measure how often a second SQLite commits a row, as durably as Key Authority's store.

    Each commit sleeps so many seconds `longer`.
    """
    connection = sqlite3.connect(run.folder / f"bare-{longer}.db", isolation_level=None)
    stack.callback(connection.close)
    for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL"):
        connection.execute(statement)
    connection.execute(_TABLE.format("BLOB"))

    def step() -> None:
        connection.execute("INSERT INTO bare (row) VALUES (?)", (ROW,))
        if longer:
            time.sleep(longer)

    return _on_servers_core(run, step)


def bare_postgres(run: Run, cluster: Cluster, stack: ExitStack) -> Measure:
    """Measure how often a second PostgreSQL commits a row."""
    connection = psycopg.connect(cluster.create(), autocommit=True)
    stack.enter_context(connection)
    connection.execute("CREATE TABLE bare (id serial PRIMARY KEY, row bytea)")

    def step() -> None:
        connection.execute("INSERT INTO bare (row) VALUES (%s)", (ROW,))

    return _on_servers_core(run, step)


def _on_servers_core(run: Run, step: Callable[[], None]) -> Measure:
    def measure() -> float:
        with on_core(run.server_core):
            return steps_a_second(step, run.seconds)

    return measure
