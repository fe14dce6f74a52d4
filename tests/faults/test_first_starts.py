"""Several servers start on one empty PostgreSQL: one initializes it, the others report."""

from __future__ import annotations

import asyncio
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Final

import pytest

from keyauthority_server.config import ConfigError
from keyauthority_server.keyring import Keyring
from keyauthority_server.runtime import bootstrap
from keyauthority_server.services.first_records import make_first_records
from keyauthority_server.store import factory
from tests.faults.copies import settings
from tests.postgres import Cluster

SERVERS: Final = 4
KEY_FILES: Final = ("pepper", "audit.key")


def prepared(data: Path, url: str) -> str:
    """Perform a first start; return its error."""
    try:
        asyncio.run(bootstrap.prepare(settings(data, url)))
    except ConfigError as refused:
        return str(refused)
    return ""


def folders(parent: Path) -> list[Path]:
    """Make a data folder for each server."""
    made = [parent / f"data-{number}" for number in range(SERVERS)]
    for one in made:
        one.mkdir(mode=0o700)
    return made


def test_concurrent_starts_on_an_empty_database_leave_one_set_of_key_files(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The losers remove their key files and name the winner."""
    url, datas, barrier = cluster.create(), folders(tmp_path), Barrier(SERVERS)
    create = Keyring.create

    def together(path: Path) -> Keyring:
        made = create(path)
        if path.name == KEY_FILES[-1]:
            barrier.wait(60)
        return made

    monkeypatch.setattr(Keyring, "create", together)
    with ThreadPoolExecutor(SERVERS) as pool:
        told = list(pool.map(lambda data: prepared(data, url), datas))
    (first,) = [data for data, line in zip(datas, told, strict=True) if not line]
    for data, line in zip(datas, told, strict=True):
        if data != first:
            assert f"copy pepper and audit.key to {data}" in line
            assert [] == [one.name for one in data.iterdir()]
            for name in KEY_FILES:
                shutil.copy2(first / name, data / name)
    assert [""] * SERVERS == [prepared(data, url) for data in datas]
    assert [first] == [data for data in datas if (data / "operator.key").exists()]


def test_start_that_is_overtaken_names_the_winner(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other server founds the authority after this one has made its key files."""
    url, (first, late, *_) = cluster.create(), folders(tmp_path)
    create = Keyring.create

    def overtaken(path: Path) -> Keyring:
        made = create(path)
        if path == late / KEY_FILES[-1]:
            assert "" == ThreadPoolExecutor(1).submit(prepared, first, url).result(60)
        return made

    monkeypatch.setattr(Keyring, "create", overtaken)
    assert f"copy pepper and audit.key to {late}" in prepared(late, url)
    assert [] == list(late.iterdir())


def test_concurrent_starts_with_shared_key_files_leave_one_operator_key(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With provisioned key files all start; the first one has the operator key."""
    url, datas, barrier = cluster.create(), folders(tmp_path), Barrier(SERVERS)
    for number, data in enumerate(datas):
        for name in KEY_FILES:
            if number == 0:
                Keyring.create(data / name)
            else:
                shutil.copy2(datas[0] / name, data / name)
    factory.migrate(settings(datas[0], url).store)

    async def together(*given: object) -> bool:
        await asyncio.to_thread(barrier.wait, 60)
        return await make_first_records(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(bootstrap, "make_first_records", together)
    with ThreadPoolExecutor(SERVERS) as pool:
        told = list(pool.map(lambda data: prepared(data, url), datas))
    assert [""] * SERVERS == told
    assert 1 == sum((data / "operator.key").exists() for data in datas)
