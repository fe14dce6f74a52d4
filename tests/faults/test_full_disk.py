"""A full disk: additions are refused, verification works, and keys can be revoked."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Final

import grpc
import pytest
from google.rpc.status_pb2 import Status

from keyauthority.convert import error_from_status
from keyauthority.v1 import key_pb2
from keyauthority_server.store.sqlite.disk_reserve import RESERVE_BYTES
from tests.faults.small_disk import fill, small_server
from tests.service.callers import Caller, key_request, new_key, new_project, revoke, verdict
from tests.service.metrics import scrape, value
from tests.service.processes import ServerProcess, wait_until

KEYS: Final = 20
LOW: Final = (grpc.StatusCode.RESOURCE_EXHAUSTED, "DISK_LOW")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerProcess]:
    """A server whose data folder is on a small file system."""
    with small_server(tmp_path, "--transport", "native") as running:
        yield running


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
