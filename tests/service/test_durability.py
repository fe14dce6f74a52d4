"""kill -9 of all processes during writes: what was acknowledged is there, nothing by halves."""

from __future__ import annotations

import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import grpc
import pytest

from keyauthority.v1 import key_authority_service_pb2, key_pb2, project_service_pb2
from tests.service.callers import Caller, lasting, new_key, new_project, revoke, verify
from tests.service.conftest import Start
from tests.service.processes import ServerProcess, is_alive, wait_until

CYCLES: Final = 3  # the short form
WRITERS: Final = 4
WRITES: Final = 40  # acknowledged in a cycle before the kill
BATCH: Final = 1000

VALID: Final = key_authority_service_pb2.VERDICT_VALID
REVOKED: Final = key_authority_service_pb2.VERDICT_REVOKED


@dataclass
class Journal:
    """What was acknowledged to the writers, and what was asked for without an answer."""

    created: dict[str, Any] = field(default_factory=dict)
    """CreateKeyResponse, by access key."""
    revoked: dict[str, int] = field(default_factory=dict)
    """The revision of the revocation, by access key."""
    asked: set[str] = field(default_factory=set)
    """Keys whose revocation was asked for; what is not in `revoked` may be either."""
    writes: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def holds(self, writes: int) -> bool:
        """True if so many writes were acknowledged."""
        return self.writes >= writes


def write(server: ServerProcess, project: str, journal: Journal) -> None:
    """Make keys and revoke every second one, until the server is gone."""
    with grpc.insecure_channel(server.address) as channel:
        caller = Caller(channel, server.metadata)
        try:
            while True:
                made = [new_key(caller, project) for _ in range(2)]
                with journal.lock:
                    journal.created |= {one.key.access_key: one for one in made}
                    journal.asked.add(made[0].key.access_key)
                    journal.writes += 2
                answer = revoke(caller, access_key=made[0].key.access_key)
                with journal.lock:
                    journal.revoked[answer.key.access_key] = answer.revision
                    journal.writes += 1
        except grpc.RpcError:
            return


def kill_tree(server: ServerProcess) -> None:
    """End every process of the server at once, with SIGKILL, and see them gone."""
    pids = [server.process.pid, *server.worker_pids()]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    server.wait()
    wait_until(lambda: not any(map(is_alive, pids)))


def everything(caller: Caller) -> tuple[dict[str, key_pb2.Key], set[int]]:
    """All keys of all projects, and the newest revision of each project and operator key."""
    keys: dict[str, key_pb2.Key] = {}
    revisions: set[int] = set()
    operators = key_authority_service_pb2.KeyFilter(kind=key_pb2.KEY_KIND_OPERATOR)
    for wanted in (key_authority_service_pb2.KeyFilter(), operators):
        request = key_authority_service_pb2.ListKeysRequest(filter=wanted, page_size=1000)
        while True:
            page = caller.ask(request)
            keys |= {key.access_key: key for key in page.keys}
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
    projects = caller.ask(project_service_pb2.ListProjectsRequest(page_size=1000))
    revisions |= {project.revision for project in projects.projects}
    return keys, revisions


def verdicts(caller: Caller, tokens: list[str]) -> tuple[list[int], int]:
    """The verdict on each token, and the head."""
    found: list[int] = []
    revision = int(verify(caller, "").revision)
    for first in range(0, len(tokens), BATCH):
        requests = [
            key_authority_service_pb2.VerifyRequest(secret_key=token)
            for token in tokens[first : first + BATCH]
        ]
        answer = caller.ask(key_authority_service_pb2.BatchVerifyRequest(requests=requests))
        found += [one.verdict for one in answer.responses]
    return found, revision


def judge(caller: Caller, journal: Journal) -> None:
    """Hold the server to everything that it acknowledged."""
    made = journal.created
    found, head = verdicts(caller, [one.secret_key for one in made.values()])
    keys, revisions = everything(caller)
    for access_key, verdict in zip(made, found, strict=True):
        if access_key in journal.revoked:
            assert (access_key, REVOKED) == (access_key, verdict)
        elif access_key not in journal.asked:
            assert (access_key, VALID) == (access_key, verdict)
        else:
            assert verdict in (VALID, REVOKED)
    for access_key, one in made.items():
        if keys[access_key].state == key_pb2.KEY_STATE_ACTIVE:
            assert one.key == lasting(keys[access_key])
    revisions |= {one.revision for one in made.values()} | set(journal.revoked.values())
    revisions |= {key.revision for key in keys.values()}
    assert set(range(1, head + 1)) == revisions


def test_acknowledged_writes_survive_the_death_of_every_process(
    start_server: Start, transport: str
) -> None:
    """Creates verify, revocations hold, no revision is missing; a lost one is noticed."""
    journal = Journal()
    flags = ("--transport", transport, "--workers", "2")
    project = ""
    for cycle in range(1, CYCLES + 1):
        server = start_server(*flags)
        with grpc.insecure_channel(server.address) as channel:
            caller = Caller(channel, server.metadata)
            judge(caller, journal)
            project = project or new_project(caller)
        with ThreadPoolExecutor(WRITERS) as pool:
            writers = [pool.submit(write, server, project, journal) for _ in range(WRITERS)]
            wait_until(partial(journal.holds, cycle * WRITES))
            kill_tree(server)
        assert [None] * WRITERS == [writer.result() for writer in writers]
    server = start_server(*flags)
    with grpc.insecure_channel(server.address) as channel:
        caller = Caller(channel, server.metadata)
        judge(caller, journal)
        never_revoked = next(iter(set(journal.created) - journal.asked))
        journal.revoked[never_revoked] = 1
        with pytest.raises(AssertionError):
            judge(caller, journal)
    assert len(journal.revoked) > CYCLES
    assert 0 == server.stop().code
