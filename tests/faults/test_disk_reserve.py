"""The disk reserve of the SQLite store: which work may use it, and how it is refilled."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from keyauthority.model import ChangeType
from keyauthority_server.store.interface import Store, StoreFull
from keyauthority_server.store.sqlite import writer
from keyauthority_server.store.sqlite.disk_reserve import RESERVE_BYTES, STEP_BYTES, reserve_path
from keyauthority_server.store.sqlite.store import migrate, open_store
from tests.store.factories import applying, create_project, mutation, project, sign


@pytest.fixture
def place(tmp_path: Path) -> str:
    """An empty database."""
    path = tmp_path / "keys.db"
    migrate(path)
    return str(path)


@pytest.fixture
async def store(place: str) -> AsyncIterator[Store]:
    """The store on it."""
    opened = open_store(Path(place), sign)
    yield opened
    await opened.close()


@contextmanager
def full_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A disk that reports no free space."""
    tell = os.fstatvfs

    def told(file: int) -> Any:
        found = tell(file)
        return SimpleNamespace(f_blocks=found.f_blocks, f_frsize=found.f_frsize, f_bavail=0)

    with monkeypatch.context() as patched:
        patched.setattr(os, "fstatvfs", told)
        yield


def kept(place: str) -> int:
    """Return how much is in reserve, in bytes that the disk really has."""
    found = reserve_path(Path(place)).stat()
    assert found.st_size <= found.st_blocks * 512
    return found.st_size


async def test_low_disk_admits_only_urgent_work(
    store: Store, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Additions are refused before space runs out; urgent work uses part of the reserve."""
    monkeypatch.setattr(writer, "IDLE_SECONDS", 0.01)
    await create_project(store)
    assert RESERVE_BYTES == kept(place)
    refused, urgent = project(), project()
    with full_disk(monkeypatch):
        with pytest.raises(StoreFull):
            await store.write(applying(mutation(ChangeType.PROJECT_CREATED, refused)))
        assert RESERVE_BYTES == kept(place)
        await store.write(applying(mutation(ChangeType.PROJECT_CREATED, urgent)), urgent=True)
        assert RESERVE_BYTES - STEP_BYTES == kept(place)
        assert await store.get_project(refused.project_id, None) is None
        assert await store.get_project(urgent.project_id, None) is not None
    await create_project(store)
    assert RESERVE_BYTES == kept(place)


async def test_group_commit_on_a_low_disk_splits_urgent_from_other_work(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each unit of a shared commit is judged on its own."""
    await create_project(store)
    writes = [
        store.write(applying(mutation(ChangeType.PROJECT_CREATED, project())), urgent=n % 2 == 0)
        for n in range(20)
    ]
    with full_disk(monkeypatch):
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert 10 == sum(isinstance(one, StoreFull) for one in outcomes)
    assert [2 + n // 2 for n in range(0, 20, 2)] == [one.revision for one in outcomes[::2]]  # type: ignore[union-attr]  # the urgent ones were applied


async def test_urgent_work_without_space_gets_more_and_runs_once(store: Store, place: str) -> None:
    """A disk that fills before the commit costs the reserve, not the revocation."""
    await create_project(store)
    wanted, times = project(), 0

    def work(transaction: Any) -> Any:
        nonlocal times
        times += 1
        applied = transaction.apply(mutation(ChangeType.PROJECT_CREATED, wanted))
        if times <= 3:
            transaction._rows.failure = StoreFull("full")  # as the driver's error leaves it
        return applied

    assert 2 == (await store.write(work, urgent=True)).revision
    assert 4 == times
    assert RESERVE_BYTES - 3 * STEP_BYTES == kept(place)


async def test_other_work_without_space_is_retried_once_and_refused(
    store: Store, place: str
) -> None:
    """It may fit after the write-ahead log restarts; it never uses the reserve."""
    times = 0

    def work(transaction: Any) -> None:
        nonlocal times
        times += 1
        transaction._rows.failure = StoreFull("full")

    with pytest.raises(StoreFull):
        await store.write(work)
    assert 2 == times
    assert RESERVE_BYTES == kept(place)
    assert 1 == (await create_project(store)).revision
