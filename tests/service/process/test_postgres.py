"""Servers on PostgreSQL: first start, several servers, and mismatched stores."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import keyauthority
from tests.postgres import Cluster
from tests.service.forkserver import shared
from tests.service.processes import ServerProcess, command, run

PASSWORD = "hidden-in-the-url"


@pytest.fixture
def url(cluster: Cluster) -> str:
    """A database without tables."""
    return cluster.create()


@pytest.fixture
def server(url: str, tmp_path: Path) -> Iterator[ServerProcess]:
    """A server of two workers that was started on it, with the URL in a file."""
    store = tmp_path / "store"
    store.touch(mode=0o600)
    store.write_text(url.replace("postgres@", f"postgres:{PASSWORD}@"))
    running = shared().start(tmp_path / "data", "--store-file", str(store), "--workers", "2")
    yield running
    if running.process.poll() is None:
        running.stop()


def test_postgres_servers_share_state_and_need_copied_key_files(
    server: ServerProcess, url: str, tmp_path: Path
) -> None:
    """Every worker and server knows an acknowledged change; a new one needs the key files."""
    with keyauthority.Client(server.address, operator_key=server.operator_key) as authority:
        project = authority.create_project("Shop")
        made = authority.create_key(
            project.project_id, mode="test", kind="restricted", permissions=["orders:read"]
        )
        assert all(_verdicts(server, made.secret_key, "valid"))

        other = tmp_path / "other"
        refused = shared().run("serve", "--data", str(other), "--store", url)
        assert (2, 1) == (refused.code, len(refused.log.splitlines()))
        assert f"copy pepper and audit.key to {other}" in refused.log
        for name in ("pepper", "audit.key"):
            shutil.copy2(server.data / name, other / name)
        second = shared().start(other, "--store", url)
        try:
            with keyauthority.Client(second.address, operator_key=server.operator_key) as beside:
                revoked = beside.revoke_key(made.key.access_key)
            assert all(_verdicts(server, made.secret_key, "revoked", revoked.revision))
        finally:
            second.stop()
    outcome = server.stop()
    assert 0 == outcome.code
    assert PASSWORD not in outcome.log


def _verdicts(
    server: ServerProcess, secret_key: str, expected: str, at_least_revision: int = 0
) -> Iterator[bool]:
    """Verify on new connections, which fall to any worker."""
    for _ in range(8):
        with keyauthority.Client(server.address, operator_key=server.operator_key) as authority:
            told = authority.verify(secret_key, at_least_revision=at_least_revision)
            yield expected == told.code.value


def test_key_files_beside_an_empty_database_are_refused(url: str, tmp_path: Path) -> None:
    """A pepper is created only with an empty database, and the reverse."""
    data = tmp_path / "data"
    assert 0 == shared().run("init", "--data", str(data)).code
    refused = shared().run("init", "--data", str(data), "--store", url)
    assert 2 == refused.code
    assert "exists, but postgresql:" in refused.log


def test_server_without_the_driver_names_the_missing_extra(url: str, tmp_path: Path) -> None:
    """Without the extra `postgres` the start fails with one line that names it."""
    without = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from keyauthority_server.commands import main; main()"
    )
    program = [command()[0], "-c", without]
    refused = run("init", "--data", str(tmp_path / "data"), "--store", url, program=program)
    assert 2 == refused.code
    assert "keyauthority[postgres]" in refused.log
