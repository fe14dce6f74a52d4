"""Rows on PostgreSQL: when their statement waits, other threads know since when."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from keyauthority_server.store.postgres.connection import parameters
from keyauthority_server.store.postgres.rows import PipelinedRows
from keyauthority_server.store.postgres.writer import PATIENCE
from tests.postgres import Cluster
from tests.service.processes import wait_until

_LOCK = "SELECT pg_advisory_lock(?)"
_WAITING = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"


@pytest.mark.parametrize("earlier", [(), ("SELECT 1", "SELECT 2")], ids=["alone", "pipelined"])
def test_waiting_statement_is_known_until_it_is_answered(
    cluster: Cluster, earlier: tuple[str, ...]
) -> None:
    """Sent alone or with earlier ones, in one round trip: `DatabaseTurns` looks after it."""
    url = cluster.create()
    rows = PipelinedRows(parameters(url), PATIENCE, lambda _: None)
    rows.ready()
    assert rows.is_local

    def locked() -> None:
        for statement in earlier:
            rows.run(statement)
        rows.one(_LOCK, (1,))

    def is_waiting() -> bool:
        return rows.waiting_since is not None

    with psycopg.connect(url, autocommit=True) as other, ThreadPoolExecutor(1) as thread:
        other.execute("SELECT pg_advisory_lock(1)")
        waiting = thread.submit(locked)
        try:
            wait_until(lambda: other.execute(_WAITING).fetchone() == (1,))
            assert is_waiting()
        finally:
            other.execute("SELECT pg_advisory_unlock(1)")
        waiting.result()
    assert not is_waiting()
    rows.drop()
