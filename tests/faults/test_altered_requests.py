"""Stored responses of requests that were altered in the database are refused, not returned."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final

import grpc
import pytest
from google.protobuf.message import Message

from tests.faults.conftest import Ground
from tests.faults.test_kills import calling
from tests.postgres import execute
from tests.service.callers import Caller, key_request, new_key, new_project, refusal
from tests.service.forkserver import shared
from tests.service.processes import ServerProcess

pytestmark = pytest.mark.parametrize("engine", ["sqlite", "postgres"])

ALTERATIONS: Final = (
    "UPDATE request SET sealed = {zeros}",
    "UPDATE request SET sealed = {one}",
    "UPDATE request SET sealed = (SELECT sealed FROM request AS r WHERE access_key = '{other}')",
    "UPDATE request SET revision = (SELECT created_revision FROM key WHERE access_key = '{other}')",
    "UPDATE request SET pepper_version = 99",
    "UPDATE request SET end_time = 9223372036854775807",
)
LITERALS: Final = {
    "sqlite": {"zeros": "zeroblob(60)", "one": "x'00'"},
    "postgres": {"zeros": "decode(repeat('00', 60), 'hex')", "one": "decode('00', 'hex')"},
}


def _run(path: Path, statement: str) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute(statement)


@pytest.fixture
def server(ground: Ground) -> Iterator[tuple[ServerProcess, Callable[[str], object]]]:
    """A server, and how statements are run in its database."""
    started = shared().start(ground.data, *ground.flags)
    yield (
        started,
        partial(execute, ground.url)
        if ground.url
        else partial(_run, ground.data / "keyauthority.db"),
    )
    started.kill()


def test_altered_response_of_a_request_is_an_integrity_failure(
    engine: str, server: tuple[ServerProcess, Callable[[str], object]]
) -> None:
    """UNAVAILABLE with reason STORE_UNAVAILABLE, logged as an error; no secret, never INTERNAL."""
    started, run = server
    with calling(started) as root:
        project_id = new_project(root)
        other = new_key(root, project_id, request_id=str(uuid.uuid4())).key.access_key
        for alteration in ALTERATIONS:
            request = key_request(project_id, request_id=str(uuid.uuid4()))
            made = root.ask(request)
            assert made == root.ask(request)
            statement = alteration.format(other=other, **LITERALS[engine])
            run(f"{statement} WHERE access_key = '{made.key.access_key}'")
            assert ("UNAVAILABLE", "STORE_UNAVAILABLE") == refused(root, request), alteration
    log = started.log_text()
    assert log.count("damaged=True") >= len(ALTERATIONS) - 1  # a missing pepper is no damage
    assert "Traceback" not in log
    assert "correlation" not in log


def refused(caller: Caller, request: Message) -> tuple[str, str]:
    """Return status and reason of a call."""
    with pytest.raises(grpc.RpcError) as failed:
        caller.ask(request)
    told = refusal(failed.value)
    return told.code.name, told.reason
