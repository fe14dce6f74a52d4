"""Health follows the server's ability to answer within two seconds, on each transport."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keyauthority_server.store.postgres import migrate
from tests.postgres import Cluster
from tests.service.callers import Caller, new_project
from tests.service.forkserver import shared
from tests.service.processes import (
    READY,
    STOP_SECONDS,
    children,
    command,
    environment,
    wait_until,
)

SECONDS: Final = 2.0
SLACK: Final = 1.0  # of a machine that does other things, too
SERVICES: Final = ("", "keyauthority.v1.KeyAuthorityService", "keyauthority.v1.AuditService")
SERVING: Final = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING


@contextmanager
def unreachable(cluster: Cluster, url: str) -> Iterator[None]:
    """Close a database to new sessions, and end all present ones."""
    name = url.partition("?")[0].rpartition("/")[2]
    cluster.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    cluster.execute(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"  # noqa: S608 - a name of the tests' own
    )
    try:
        yield
    finally:
        cluster.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_health_follows_the_database(transport: str, cluster: Cluster, tmp_path: Path) -> None:
    """Check and Watch, overall and per service, turn down with the database and up again."""
    url = cluster.create()
    server = shared().start(tmp_path / "data", "--store", url, "--transport", transport)
    try:
        with grpc.insecure_channel(server.address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            watches = [stub.Watch(health_pb2.HealthCheckRequest(service=one)) for one in SERVICES]
            assert [SERVING] * len(SERVICES) == [next(one).status for one in watches]
            down = ExitStack()
            for status in (NOT_SERVING, SERVING):
                began = time.monotonic()
                if status == NOT_SERVING:
                    down.enter_context(unreachable(cluster, url))
                else:
                    down.close()
                for watch in watches:  # a busy machine may have been stale for a moment before
                    while next(watch).status != status:
                        pass
                took = time.monotonic() - began
                assert took < SECONDS + SLACK, took
                checks = [
                    stub.Check(health_pb2.HealthCheckRequest(service=one)).status
                    for one in SERVICES
                ]
                assert [status] * len(SERVICES) == checks
    finally:
        server.kill()
    assert "Traceback" not in server.log_text()


def unlink(database: Path) -> None:
    """Remove the database."""
    database.unlink()


def exchange(database: Path) -> None:
    """Put a copy in its place, as a restore by hand does."""
    copy = database.with_name("copy")
    shutil.copyfile(database, copy)
    copy.replace(database)


def cut(database: Path) -> None:
    """Leave nothing in it that can be read."""
    os.truncate(database, 0)


def overwrite(database: Path) -> None:
    """Write zeros over all of it, in place."""
    with database.open("r+b") as file:
        file.write(bytes(database.stat().st_size))


def overwrite_tail(database: Path) -> None:
    """Leave only its first page."""
    with database.open("r+b") as file:
        file.seek(4096)
        file.write(bytes(database.stat().st_size - 4096))


def checkpoint(database: Path) -> None:
    """Have the database file hold all pages, so that its write-ahead log answers nothing."""
    subprocess.run(
        [sys.executable, "-c", _CHECKPOINT, str(database)], check=True, capture_output=True
    )


_CHECKPOINT: Final = """
import pysqlite3, sys
connection = pysqlite3.connect(sys.argv[1])
assert (0, 0, 0) == connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
"""


@pytest.mark.parametrize(
    ("transport", "fault", "name"),
    [
        ("native", unlink, "keyauthority.db"),
        ("grpcio", exchange, "keyauthority.db"),
        ("native", cut, "keyauthority.db"),
        ("grpcio", overwrite, "keyauthority.db"),
        ("native", overwrite_tail, "keyauthority.db"),
        ("native", overwrite, "keyauthority.db-wal"),
        ("grpcio", cut, "keyauthority.db-wal"),
        ("native", unlink, "keyauthority.db-shm"),
        ("native", unlink, "keyauthority-counters.db"),
        ("native", overwrite, "keyauthority-counters.db"),
    ],
)
def test_health_ends_with_a_file_of_the_database(
    transport: str, fault: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    """Removed, exchanged, cut or overwritten under a running SQLite server: NOT_SERVING."""
    server = shared().start(tmp_path / "data", "--transport", transport)
    try:
        with grpc.insecure_channel(server.address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=30)
            while next(watch).status != SERVING:  # a busy machine may have been late
                pass
            new_project(Caller(channel, server.metadata))  # the write-ahead log holds it
            if fault is overwrite_tail:
                checkpoint(server.data / name)
            began = time.monotonic()
            fault(server.data / name)
            while next(watch).status != NOT_SERVING:
                pass
            assert time.monotonic() - began < SECONDS + SLACK
            assert NOT_SERVING == stub.Check(health_pb2.HealthCheckRequest()).status
    finally:
        server.kill()
    assert "Traceback" not in server.log_text()


_ALTERED: Final = (
    ("ALTER TABLE key RENAME TO gone", "ALTER TABLE gone RENAME TO key"),
    ("ALTER TABLE counter RENAME TO gone", "ALTER TABLE gone RENAME TO counter"),
    ("REVOKE SELECT ON project FROM plain", "GRANT SELECT ON project TO plain"),
    ("REVOKE INSERT, UPDATE ON heartbeat FROM plain", "GRANT ALL ON heartbeat TO plain"),
)


def test_health_follows_tables_privileges_and_name_of_the_database(
    cluster: Cluster, tmp_path: Path
) -> None:
    """A missing table, a revoked privilege or a renamed database: NOT_SERVING until undone."""
    url = cluster.create()
    name = url.partition("?")[0].rpartition("/")[2]
    cluster.execute("CREATE ROLE plain LOGIN")
    migrate(url)
    cluster.execute("GRANT ALL ON ALL TABLES IN SCHEMA public TO plain", name)
    flags = ("--store", url.replace("postgres@", "plain@"), "--transport", "grpcio")
    server = shared().start(tmp_path / "data", *flags)
    try:
        with grpc.insecure_channel(server.address) as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=60)
            away = (
                f"ALTER DATABASE {name} ALLOW_CONNECTIONS false",
                f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",  # noqa: S608 - a name of the tests' own
                f"ALTER DATABASE {name} RENAME TO {name}_away",
                f"ALTER DATABASE {name}_away ALLOW_CONNECTIONS true",
            )
            faults = [((one,), (other,), name) for one, other in _ALTERED]
            back = (f"ALTER DATABASE {name}_away RENAME TO {name}",)
            for fault, remedy, database in (*faults, (away, back, "postgres")):
                for statements, status in ((fault, NOT_SERVING), (remedy, SERVING)):
                    began = time.monotonic()
                    for statement in statements:
                        cluster.execute(statement, database)
                    while next(watch).status != status:
                        pass
                    assert time.monotonic() - began < SECONDS + SLACK, statements
    finally:
        server.kill()
    assert "Traceback" not in server.log_text()


@pytest.mark.parametrize("reached", [False, True])
def test_start_waits_for_an_unreachable_database(
    reached: bool, cluster: Cluster, tmp_path: Path
) -> None:
    """The server logs the cause and serves when it can; stopped before, it exits 0."""
    url, log = cluster.create(), tmp_path / "log"
    flags = ("--data", str(tmp_path / "data"), "--store", url, "--listen", "127.0.0.1:0")
    with unreachable(cluster, url), log.open("w") as log_file:
        starting = subprocess.Popen(
            command("serve", *flags),
            stdout=subprocess.PIPE,
            stderr=log_file,
            env=environment(),
            text=True,
        )
        wait_until(lambda: "store_unavailable_at_start" in log.read_text())
        if not reached:
            starting.terminate()
            output, _ = starting.communicate(timeout=STOP_SECONDS)
            assert (0, "") == (starting.returncode, output)
            return
    assert starting.stdout
    assert starting.stdout.readline().startswith("keyauthority-server ready")
    starting.terminate()
    starting.communicate(timeout=STOP_SECONDS)
    assert 0 == starting.returncode


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("postgresql://nobody-at-all@/postgres?host={folder}", 2),
        ("postgresql://postgres@/nothing?host={folder}", 2),
        ("postgresql://postgres@/postgres?host=/nowhere", 3),
    ],
)
def test_unreachable_store_exit_code_tells_configuration_from_outage(
    url: str, code: int, cluster: Cluster, tmp_path: Path
) -> None:
    """An unknown role or database is 2; an unreachable server is 3; one line each."""
    given = url.format(folder=cluster.folder)
    refused = shared().run("init", "--data", str(tmp_path / "data"), "--store", given)
    assert (code, 1) == (refused.code, len(refused.log.splitlines()))


def test_server_without_free_connections_waits_for_one(cluster: Cluster, tmp_path: Path) -> None:
    """Under a CONNECTION LIMIT, also one that shrinks while it runs, no process of it ends."""
    cluster.execute("CREATE ROLE crowded LOGIN CONNECTION LIMIT 2")
    url, log = cluster.create(), tmp_path / "log"
    name = url.partition("?")[0].rpartition("/")[2]
    cluster.execute(f"ALTER DATABASE {name} OWNER TO crowded")
    store = url.replace("postgres@", "crowded@")
    flags = ("--data", str(tmp_path / "data"), "--store", store, "--listen", "127.0.0.1:0")
    with log.open("w") as log_file:
        starting = subprocess.Popen(
            command("serve", *flags),
            stdout=subprocess.PIPE,
            stderr=log_file,
            env=environment(),
            text=True,
        )
    wait_until(lambda: "store_unavailable_at_start" in log.read_text())
    cluster.execute("ALTER ROLE crowded CONNECTION LIMIT -1")
    assert starting.stdout
    match = READY.fullmatch(starting.stdout.readline())
    assert match
    workers = children(starting.pid)
    with grpc.insecure_channel(match[1]) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        for limit, status in ((1, NOT_SERVING), (3, None), (-1, SERVING)):
            cluster.execute(f"ALTER ROLE crowded CONNECTION LIMIT {limit}")
            cluster.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'crowded'"
            )
            while status is not None and next(watch).status != status:
                pass
    assert workers == children(starting.pid)
    starting.terminate()
    starting.communicate(timeout=STOP_SECONDS)
    assert 0 == starting.returncode
    assert "Traceback" not in log.read_text()
    assert "worker_ended" not in log.read_text()
