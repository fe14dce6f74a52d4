"""Several processes on one store: order, freshness, and durability through kill -9."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from keyauthority.model import ChangeType
from keyauthority_server.store.interface import Store
from tests.store.engines import Engine
from tests.store.factories import create, create_project, key, put, sign
from tests.store.test_changes import entries

ROOT = Path(__file__).parents[2]


class Starter:
    """Starts workers, and ends those that are left."""

    def __init__(self, engine: Engine, stack: ExitStack) -> None:
        self._engine = engine
        self._stack = stack

    def __call__(self, place: str, *arguments: str) -> subprocess.Popen[str]:
        """Start a worker."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.store.worker", self._engine.name, place, *arguments],
            cwd=ROOT,
            env={"PYTHONPATH": f"{ROOT}:{ROOT / 'client'}:{ROOT / 'server'}"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._stack.enter_context(process)
        self._stack.callback(process.kill)
        return process


@pytest.fixture
def start(engine: Engine) -> Iterator[Starter]:
    """Start workers that do not outlive the test."""
    with ExitStack() as stack:
        yield Starter(engine, stack)


def assert_whole(engine: Engine, place: str) -> int:
    """Check that revisions have no gap and the chain holds; return how many there are."""
    log = entries(engine, place)
    assert list(range(1, len(log) + 1)) == [entry.revision for entry, _ in log]
    assert [sign(entry).hash for entry, _ in log] == [stored for _, stored in log]
    return len(log)


def test_concurrent_writers_leave_no_gap_in_revisions(
    engine: Engine, place: str, start: Starter
) -> None:
    """Each revision is assigned once, in one chain."""
    writers = [start(place, "write", "64", "8") for _ in range(3)]
    lines = [
        line.split() for one in writers for line in one.communicate(timeout=60)[0].splitlines()
    ]
    assert [0, 0, 0] == [one.returncode for one in writers]
    projects = {entry.revision for entry, _ in entries(engine, place) if entry.project}
    assert set(range(1, 196)) == {int(revision) for _, revision in lines} | projects
    assert (192, 195) == (len(lines), assert_whole(engine, place))


async def test_acknowledged_change_is_in_the_next_snapshot_of_another_process(
    store: Store, place: str, start: Starter
) -> None:
    """A read that another process starts after the acknowledgement sees the change."""
    record = await create(store, key((await create_project(store)).project_id))
    looker = start(place, "look", record.access_key)
    assert looker.stdin is not None
    assert looker.stdout is not None
    for _ in range(50):
        record = (await put(store, ChangeType.KEY_UPDATED, replace(record))).keys[0]
        looker.stdin.write("\n")
        looker.stdin.flush()
        assert str(record.revision) == looker.stdout.readline().strip()


def test_killed_writer_loses_no_acknowledged_change(
    engine: Engine, place: str, start: Starter
) -> None:
    """After kill -9 every acknowledged change is present and every record is complete."""
    acknowledged: set[str] = set()
    for lines in (1, 40, 90):
        writers = [start(place, "write", "100000", "8") for _ in range(2)]
        for one in writers:
            assert one.stdout is not None
            acknowledged |= {one.stdout.readline().split()[0] for _ in range(lines)}
            one.kill()
            # Its last complete lines of output before it died.
            rest = one.stdout.read().splitlines(keepends=True)
            acknowledged |= {line.split()[0] for line in rest if line.endswith("\n")}
    kept = {row[0] for row in engine.rows(place, "SELECT access_key FROM key")}
    assert set() == acknowledged - kept
    assert len(acknowledged) >= 262
    assert assert_whole(engine, place) == len(kept) + 6


def test_concurrent_first_starts_create_one_database(
    engine: Engine, tmp_path: Path, start: Starter
) -> None:
    """Processes that start together without a database create one, and share its log."""
    place = engine.nowhere(tmp_path)
    starters = [start(place, "start") for _ in range(4)]
    log_ids = {one.communicate(timeout=60)[0] for one in starters}
    assert [0] * 4 == [one.returncode for one in starters]
    assert (1, 37) == (len(log_ids), len(log_ids.pop()))
