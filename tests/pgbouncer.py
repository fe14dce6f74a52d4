"""A PgBouncer in front of the tests' PostgreSQL, if this machine has one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import psycopg
import pytest

from tests.postgres import SUPERUSER, Cluster
from tests.service.processes import wait_until

PROGRAM: Final = shutil.which("pgbouncer", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")

needs_pgbouncer: Final = pytest.mark.skipif(  # in continuous integration it fails instead
    PROGRAM is None and "PGBOUNCER_REQUIRED" not in os.environ,
    reason="pgbouncer is not installed (Debian: apt-get install pgbouncer)",
)


class Pooler:
    """One PgBouncer, in a folder of its own."""

    def __init__(
        self, cluster: Cluster, folder: Path, mode: str, size: int, host: Path | None = None
    ) -> None:
        """Lead to `host`, by default the folder of the cluster's socket."""
        self._cluster = cluster
        self._host = host or cluster.folder
        self._folder = folder
        self._settings = {
            "listen_port": "5432",
            "unix_socket_dir": str(folder),
            "auth_type": "trust",
            "auth_file": str(folder / "users"),
            "pool_mode": mode,
            "default_pool_size": str(size),
            "max_client_conn": "100",
            "query_wait_timeout": "3",
            "server_login_retry": "1",
            "ignore_startup_parameters": "extra_float_digits",
        }
        self._process: subprocess.Popen[bytes] | None = None
        cluster.give(folder)

    def url(self, database: str, user: str = SUPERUSER) -> str:
        """Return the URL of a database, by way of the pooler."""
        return f"postgresql://{user}@/{database}?host={self._folder}"

    def start(self, *users: str) -> None:
        """Start it, with all users that it is to know, and wait until it answers."""
        names = "".join(f'"{user}" ""\n' for user in {SUPERUSER, *users})
        (self._folder / "users").write_text(names)
        lines = [f"{name} = {text}" for name, text in self._settings.items()]
        databases = f"[databases]\n* = host={self._host}\n[pgbouncer]\n"
        config = self._folder / "pgbouncer.ini"
        config.write_text(databases + "\n".join(lines) + "\n")
        assert PROGRAM is not None
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._cluster.as_its_user(PROGRAM, config), cwd="/", stdout=log, stderr=log
            )
        wait_until(self._answers)

    def stop(self) -> None:
        """End it and all its connections at once."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait(20)

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "log").read_text(encoding="utf-8")
        try:
            psycopg.connect(self.url("postgres")).close()
        except psycopg.OperationalError:
            return False
        return True


@contextmanager
def pooler(
    cluster: Cluster, mode: str, *users: str, size: int = 20, host: Path | None = None
) -> Iterator[Pooler]:
    """Give a PgBouncer that runs in a mode; it is gone after that."""
    with tempfile.TemporaryDirectory(prefix="keyauthority-pgbouncer-") as folder:
        one = Pooler(cluster, Path(folder), mode, size, host)
        one.start(*users)
        try:
            yield one
        finally:
            one.stop()
