"""A full disk: additions are refused, verification works, and keys can be revoked.

The server runs on a small file system in memory, in a mount namespace of its own; the test
reaches it through `/proc`.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Final

import grpc
import pytest
from google.rpc.status_pb2 import Status

from keyauthority.convert import error_from_status
from keyauthority.v1 import key_pb2
from keyauthority_server.store.sqlite.disk_reserve import RESERVE_BYTES
from tests.service.callers import Caller, key_request, new_key, new_project, revoke, verdict
from tests.service.metrics import scrape, value
from tests.service.processes import ServerProcess, command, start, wait_until

SIZE: Final = 40 << 20  # bytes of the file system: enough for a whole reserve
KEYS: Final = 20
LOW: Final = (grpc.StatusCode.RESOURCE_EXHAUSTED, "DISK_LOW")

_APART: Final = ("unshare", "--map-root-user", "--mount", "sh", "-c")
_MOUNTED: Final = f'mount -t tmpfs -o size={SIZE} none "$0" && exec "$@"'


def can_mount(folder: Path) -> bool:
    """True if this machine lets us have a file system of our own."""
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run([*_APART, _MOUNTED, folder, "true"], capture_output=True, check=False)
    return tried.returncode == 0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server whose data folder is on the small file system."""
    small = tmp_path / "small"
    small.mkdir()
    if not can_mount(small):
        pytest.skip("no mount namespace here; test_disk_reserve.py tests the rule in process")
    program = [*_APART, _MOUNTED, str(small), *command()]
    running = start(
        small / "data",
        *("--transport", "native"),
        *("--metrics", "127.0.0.1:0"),
        program=program,
    )
    inside = Path(f"/proc/{running.process.pid}/root{small / 'data'}")
    yield dataclasses.replace(running, data=inside)
    running.stop()


def fill(folder: Path) -> Path:
    """Take all space that there is."""
    filler = folder / "filler"
    with filler.open("ab", buffering=0) as file, suppress(OSError):
        for size in (64 << 10, 4 << 10, 1):
            with suppress(OSError):
                while file.write(b"\1" * size) == size:
                    pass
    assert 0 == os.statvfs(folder).f_bavail
    return filler


@pytest.mark.case(21)
def test_full_disk_refuses_additions_and_allows_revocation(server: ServerProcess) -> None:
    """CreateKey is DISK_LOW, Verify and RevokeKey work; with space all does, unrestarted."""
    with grpc.insecure_channel(server.address) as channel:
        root = Caller(channel, server.metadata)
        project = new_project(root)
        made = [new_key(root, project) for _ in range(KEYS)]
        limit = key_pb2.RateLimit(limit=1_000_000)
        limit.period.FromTimedelta(timedelta(days=1))
        limited = new_key(root, project, rate_limit=limit).secret_key
        assert "VALID" == verdict(root, limited)
        filler = fill(server.data)
        for one in made:
            refused = root.refused(key_request(project))
            assert LOW == (refused.code, refused.reason)
            assert error_from_status(Status.FromString(refused.status)).retry_after
            assert "VALID" == verdict(root, one.secret_key)
            assert "VALID" == verdict(root, limited)
            revoke(root, access_key=one.key.access_key)
            fill(server.data)  # another file takes the unused part of the released reserve
            assert "REVOKED" == verdict(root, one.secret_key)
        text = scrape(server)
        assert 0 == value(text, "keyauthority_disk_free_bytes ")
        assert RESERVE_BYTES > value(text, "keyauthority_disk_reserve_bytes ") > 0
        filler.unlink()
        wait_until(
            lambda: root.outcome("CreateKey", key_request(project).SerializeToString()) is None
        )
        assert all("REVOKED" == verdict(root, one.secret_key) for one in made)
        wait_until(
            lambda: value(scrape(server), "keyauthority_disk_reserve_bytes ") == RESERVE_BYTES
        )
    assert "store_broken" not in server.log_text()
