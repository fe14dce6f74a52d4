"""Failovers of PostgreSQL under half-write load, judged by the oracle.

`python -m tests.faults.failover --times 100` reports their durations.

Two servers with the addresses of both databases; a primary, and a standby that commits wait for.
Each time the primary is killed with all its sessions, the standby promoted, and a new standby made
of it in the place of the one that was lost.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final

import grpc
import psycopg

from keyauthority.v1 import key_authority_service_pb2 as service
from tests.faults.oracle import CREATE, REVOKE, Journal, PostgresStore, judge, write_half
from tests.postgres import START_SECONDS, Cluster, end_sessions
from tests.service.callers import Caller, new_project, verify
from tests.service.processes import ServerProcess, start, wait_until

DATABASE: Final = "authority"
WRITERS: Final = 2  # of each server
WRITES: Final = 10  # acknowledged before anything is done to the database, and after it
STALENESS: Final = 1.0  # seconds: --max-staleness, of which this is the default
LOOK_SECONDS: Final = 0.05  # between two looks at each client's keys
FULL_SECONDS: Final = 0.5
PATIENCE: Final = 60.0  # seconds until load continues; the duration is reported

KEY_FILES: Final = ("pepper", "audit.key", "operator.key")


class Pair:
    """A primary and its standby. Which of two clusters is which changes with each failover."""

    def __init__(self, primary: Cluster, standby: Cluster) -> None:
        """Start both in their empty folders; commits wait for the standby."""
        self.primary, self.standby = primary, standby
        self.promotions: list[float] = []
        """Seconds that each took, which are part of the recovery."""
        primary.make()
        primary.start()
        primary.execute(f"CREATE DATABASE {DATABASE}")
        self._attach()

    @property
    def url(self) -> str:
        """The URL with both addresses, as an operator writes it."""
        folders = sorted(str(one.folder) for one in (self.primary, self.standby))
        return self.primary.url(DATABASE, host=",".join(folders))

    def fail_over(self) -> None:
        """Kill the primary and promote the standby."""
        self.primary.kill()
        began = time.monotonic()
        self.standby.promote()
        self.promotions.append(time.monotonic() - began)
        self.primary, self.standby = self.standby, self.primary

    def lose(self) -> None:
        """Let the primary go on without its standby, as an asynchronous one allows."""
        self.primary.execute("ALTER SYSTEM SET synchronous_standby_names = ''")
        self.primary.execute("SELECT pg_reload_conf()")
        self.standby.stop()

    def fail_over_to_the_past(self) -> None:
        """Kill the primary, and promote the standby that `lose` has stopped."""
        self.primary.kill()
        self.standby.start()
        self.standby.promote()
        self.primary, self.standby = self.standby, self.primary

    def mend(self) -> None:
        """Put a new standby in the place of the primary that was lost."""
        self._attach()

    def _attach(self) -> None:
        self.standby.follow(self.primary)
        self.primary.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'")
        self.primary.execute("SELECT pg_reload_conf()")
        wait_until(lambda: [("sync",)] == self.primary.execute(_ATTACHED), START_SECONDS)


_ATTACHED: Final = "SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'"


@dataclass
class World:
    """The databases, the servers on them, and the answers of clients."""

    pair: Pair
    servers: list[ServerProcess]
    journal: Journal
    recoveries: list[float] = field(default_factory=list)
    """Seconds from each fault until changes and Verify went on at every server, for all clients."""
    stale: list[str] = field(default_factory=list)
    """Keys that were VALID when the bound was over."""

    @property
    def store(self) -> PostgresStore:
        """The store that the oracle inspects."""
        return PostgresStore(self.servers[0].data, self.pair.url)

    def under_load(self, fault: Callable[[], None]) -> None:
        """Let clients write, do something to the database, and let them write again."""
        stop = threading.Event()
        before = len(self.journal.acknowledged(CREATE))
        clients = [(one, Journal(self.journal.project_id)) for one in self.servers * WRITERS]
        with ThreadPoolExecutor(2 * len(clients)) as pool:
            running = [pool.submit(_write, one, own, stop) for one, own in clients]
            looks = [Looks() for _ in self.servers]
            for watched, seen in zip(self.servers, looks, strict=True):
                running.append(pool.submit(_look, clients, stop, watched, seen))
            try:
                wait_until(
                    lambda: all(_acknowledged(own) >= WRITES for _, own in clients), PATIENCE
                )
                began = time.monotonic()
                fault()
                wait_until(lambda: all(_recovered(own, began) for _, own in clients), PATIENCE)
                wait_until(lambda: all(map(partial(Looks.since, moment=began), looks)), PATIENCE)
                ends = [_since(own, began) for _, own in clients]
                ends += [own.since(began) for own in looks]
                self.recoveries.append(max(_recovery(one, began) for one in ends))
            finally:
                stop.set()
            assert [None] * len(running) == [one.result() for one in running]
        self.journal.lines += [line for _, own in clients for line in own.lines]
        self.stale += [access_key for own in looks for access_key in own.stale]
        assert before < len(self.journal.acknowledged(CREATE))

    def judge(self) -> None:
        """Hold the servers and the store to the journal; who cannot tell is asked again."""
        assert [] == self.stale
        end = time.monotonic() + PATIENCE
        with calling(self.servers[0]) as caller:
            while True:
                try:
                    judge(self.journal, caller, self.store)
                except grpc.RpcError as error:
                    if error.code() != grpc.StatusCode.UNAVAILABLE or time.monotonic() > end:
                        raise
                else:
                    return


@contextmanager
def running_pair(file_system_bytes: int = 0) -> Iterator[Pair]:
    """Give a primary and its standby, which are gone after that.

    With `file_system_bytes` each has a file system of its own, in memory; only root can have it.
    """
    with ExitStack() as ending:
        clusters = []
        for _ in range(2):
            temporary = tempfile.TemporaryDirectory(prefix="keyauthority-postgres-")
            folder = Path(ending.enter_context(temporary))
            if file_system_bytes:
                ending.enter_context(file_system(folder, file_system_bytes))
            clusters.append(Cluster(folder))
            ending.callback(clusters[-1].stop, signal.SIGQUIT)
        yield Pair(*clusters)


@contextmanager
def file_system(folder: Path, size: int) -> Iterator[None]:
    """Have a folder on a file system of its own, of so many bytes of memory."""
    options = f"size={size},mode=700"
    subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", options, "none", folder], check=True)
    try:
        yield
    finally:
        subprocess.run(["/bin/umount", "--lazy", folder], check=True)


@contextmanager
def world(
    pair: Pair | None = None, *urls: str, settings: Sequence[Mapping[str, str]] = ()
) -> Iterator[World]:
    """Give servers that run, by default two on a pair of their own, gone after that.

    `settings` are variables for the environment of each.
    """
    with ExitStack() as ending:
        pair = pair or ending.enter_context(running_pair())
        root = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="keyauthority-")))
        servers: list[ServerProcess] = []
        for number, url in enumerate(urls or (pair.url, pair.url)):
            own = settings[number] if settings else None
            servers.append(start_server(url, root / f"data-{number}", *servers[:1], settings=own))
            ending.callback(servers[-1].kill)
        with calling(servers[0]) as caller:
            yield World(pair, servers, Journal(new_project(caller)))


def start_server(
    url: str, data: Path, *first: ServerProcess, settings: Mapping[str, str] | None = None
) -> ServerProcess:
    """Start a server in a new data folder, with the key files of the first one."""
    if first:
        data.mkdir(mode=0o700)
        for name in KEY_FILES:
            shutil.copy(first[0].data / name, data / name)
    return start(data, "--store", url, settings=settings)


@contextmanager
def calling(server: ServerProcess) -> Iterator[Caller]:
    """Give the first operator, on a connection of its own."""
    with grpc.insecure_channel(server.address) as channel:
        yield Caller(channel, server.metadata)


def _write(server: ServerProcess, journal: Journal, stop: threading.Event) -> None:
    with calling(server) as caller:
        write_half(caller, journal, stop)


class Looks:
    """The answers of one client that verifies only revoked keys."""

    def __init__(self) -> None:
        self.answered: list[tuple[float, float]] = []
        """When each Verify began, and ended."""
        self.stale: list[str] = []
        """Keys that were VALID when the bound was over."""

    def since(self, moment: float) -> list[float]:
        """The ends of those that began after it."""
        return [end for start, end in list(self.answered) if start > moment]


def _look(
    clients: list[tuple[ServerProcess, Journal]],
    stop: threading.Event,
    server: ServerProcess,
    looks: Looks,
) -> None:
    """Verify the newest keys of each client for whose revocation the bound is over."""
    with calling(server) as caller:
        while not stop.wait(LOOK_SECONDS):
            for _, journal in clients:
                began = time.monotonic()
                over = [
                    one.access_key
                    for one in journal.acknowledged(REVOKE)
                    if one.end is not None and one.end < began - STALENESS
                ]
                secrets = {one.access_key: one.secret_key for one in journal.acknowledged(CREATE)}
                for access_key in over[-1:] or list(secrets)[:1]:
                    try:
                        answer = verify(caller, secrets[access_key])
                    except grpc.RpcError:
                        continue  # cannot tell: never wrong
                    looks.answered.append((began, time.monotonic()))
                    if over and answer.verdict == service.VERDICT_VALID:
                        looks.stale.append(access_key)


def _acknowledged(journal: Journal) -> int:
    return len(journal.acknowledged(CREATE)) + len(journal.acknowledged(REVOKE))


def _since(journal: Journal, moment: float) -> list[float]:
    lines = journal.acknowledged(CREATE) + journal.acknowledged(REVOKE)
    return sorted(one.end for one in lines if one.start > moment and one.end is not None)


def _recovered(journal: Journal, moment: float) -> bool:
    return len(_since(journal, moment)) >= WRITES


def _recovery(ends: list[float], moment: float) -> float:
    """Return the seconds until the end of the longest silence."""
    silences = [(later - earlier, later) for earlier, later in pairwise([moment, *sorted(ends)])]
    return max(silences)[1] - moment


def restart(pair: Pair) -> None:
    """End the primary as `pg_ctl restart -m immediate` does, and start it again."""
    pair.primary.stop(signal.SIGQUIT)
    pair.primary.start()


def reset(pair: Pair) -> None:
    """End all sessions of the database, in any state: those that listen, too."""
    end_sessions(pair.primary.url(DATABASE))


def fill_up(pair: Pair) -> None:
    """Use up all connections: the servers get "too many connections"."""
    url = pair.primary.url(DATABASE)
    with ExitStack() as taken:
        free = taken.enter_context(psycopg.connect(url, autocommit=True))
        others = [free.info.backend_pid]
        with suppress(psycopg.OperationalError):
            while True:
                others.append(taken.enter_context(psycopg.connect(url)).info.backend_pid)
        free.execute(_END_OTHERS, (others,))
        with suppress(psycopg.OperationalError):  # connections that they release are taken, too
            while True:
                taken.enter_context(psycopg.connect(url))
        threading.Event().wait(FULL_SECONDS)


_END_OTHERS: Final = (
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> ALL (%s)"
)


def report(world: World) -> str:
    """The findings, as lines."""
    times, promotions = sorted(world.recoveries), sorted(world.pair.promotions)
    created, revoked = (len(world.journal.acknowledged(one)) for one in (CREATE, REVOKE))
    unknown = len(world.journal.lines) - created - revoked
    return (
        f"{len(times)} failovers, {created + revoked} acknowledged changes, none lost, "
        f"{len(world.stale)} stale answers\n"
        f"recovery p50 {statistics.median(times):.2f} s, worst {times[-1]:.2f} s; of that the"
        f" promotion p50 {statistics.median(promotions):.2f} s, worst {promotions[-1]:.2f} s"
        f" ({unknown} changes were unknown to their caller, and settled)"
    )


def main() -> int:
    """Fail over the given number of times; print the findings."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--times", type=int, default=100)
    times = options.parse_args().times
    with world() as one:
        for number in range(1, times + 1):
            one.under_load(one.pair.fail_over)
            one.judge()
            one.pair.mend()
            if number % 10 == 0 or number == times:
                sys.stdout.write(f"{report(one)}\n")
                sys.stdout.flush()
    return 0


if __name__ == "__main__":
    os.nice(5)
    sys.exit(main())
