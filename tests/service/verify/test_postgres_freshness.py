"""Servers on one PostgreSQL: bounded staleness, and behaviour without proof of freshness.

Every time is of one monotonic clock, taken before a verification is sent and after a change was
answered, so that every finding is certain.
"""

from __future__ import annotations

import asyncio
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import pytest

from keyauthority.clock import monotonic
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority.v1.project_service_pb2 import UpdateProjectRequest
from keyauthority_server.change_feed import following
from keyauthority_server.keyring import Keyring
from keyauthority_server.records import ProvenFreshness, RecordCache, heartbeat_seconds
from keyauthority_server.store.interface import StoreStale
from keyauthority_server.store.postgres import PostgresStore, open_store
from keyauthority_server.store.postgres.heartbeat import Heartbeat
from tests.postgres import Cluster, commits_held_up, execute, running_cluster
from tests.service.callers import (
    Caller,
    Refusal,
    key_request,
    new_key,
    new_project,
    refusal,
    revoke,
    verify,
)
from tests.service.forkserver import shared
from tests.service.metrics import scrape, value
from tests.service.processes import ServerProcess, wait_until
from tests.store.factories import create, operator, sign

pytestmark = pytest.mark.prove

MAX_STALENESS: Final = 1.0  # seconds, as the contract's default
SLACK_SECONDS: Final = 2.0  # for the calls themselves, on a machine that is busy
RECOVERY_SECONDS: Final = 5.0
KEYS: Final = 150
AHEAD, BEHIND = 2, 10  # keys verified in addition to those being revoked now
SHARED: Final = ("pepper", "audit.key", "operator.key")
VALID: Final = pb.VERDICT_VALID
MISSING_PERMISSION: Final = pb.VERDICT_MISSING_PERMISSION
SUSPENDED: Final = pb.VERDICT_PROJECT_SUSPENDED
METRICS: Final = ("--metrics", "127.0.0.1:0")


class Servers(NamedTuple):
    """Two servers with a data folder each, as on two machines."""

    cluster: Cluster
    url: str
    one: Caller
    other: Caller
    process: ServerProcess
    """Of the other."""


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """They share a database, in a cluster that is stopped and held up at will."""
    folder = tmp_path_factory.mktemp("servers")
    with running_cluster() as cluster, ExitStack() as stack:
        url = cluster.create()
        first = shared().start(folder / "one", "--store", url)
        stack.callback(first.stop)
        (folder / "other").mkdir(mode=0o700)
        for name in SHARED:
            shutil.copy2(folder / "one" / name, folder / "other")
        second = shared().start(folder / "other", "--store", url, "--max-staleness", "1s", *METRICS)
        stack.callback(second.stop)
        one, other = (_caller(server, stack) for server in (first, second))
        yield Servers(cluster, url, one, other, second)


def _caller(server: ServerProcess, stack: ExitStack) -> Caller:
    return Caller(stack.enter_context(grpc.insecure_channel(server.address)), server.metadata)


def refused(caller: Caller, token: str) -> Refusal | None:
    """Verify a key that is valid; return how that failed, None if it did not."""
    try:
        assert VALID == verify(caller, token).verdict
    except grpc.RpcError as failure:
        return refusal(failure)
    return None


def until_refused(caller: Caller, token: str) -> tuple[Refusal, float]:
    """Verify until that fails; return how, and after how many seconds."""
    began = time.monotonic()
    found: list[Refusal] = []

    def fails() -> bool:
        found.extend(filter(None, [refused(caller, token)]))
        return bool(found)

    wait_until(fails)
    return found[0], time.monotonic() - began


def surely(caller: Caller, token: str, **asked: Any) -> Any:
    """Verify until the server can tell: on a busy machine a beat may come too late."""
    while True:
        try:
            return verify(caller, token, **asked)
        except grpc.RpcError as failure:
            if refusal(failure).reason != "STALE":
                raise


class Seen(NamedTuple):
    """A verification of one key."""

    place: int
    start: float
    verdict: int


def watch(
    caller: Caller, tokens: Sequence[str], at: list[int], ended: threading.Event
) -> list[Seen]:
    """Verify the keys around the one that is being revoked, until all are, and once more."""
    seen = []
    last = False
    while not last:
        last = ended.is_set()
        for place in range(max(at[0] - BEHIND, 0), min(at[0] + AHEAD, len(tokens))):
            started = time.monotonic()
            seen.append(Seen(place, started, surely(caller, tokens[place]).verdict))
    return seen


@pytest.mark.case(26)
def test_no_verify_is_valid_beyond_the_bound_after_a_revocation(servers: Servers) -> None:
    """The bound holds on the other server; with the revision, or at the writer, it is zero."""
    project = new_project(servers.one)
    made = [new_key(servers.one, project) for _ in range(KEYS)]
    tokens = [one.secret_key for one in made]
    at, ended = [0], threading.Event()
    answered, asked = [0.0] * KEYS, []
    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(watch, servers.other, tokens, at, ended)
        try:
            for place, one in enumerate(made):
                at[0] = place
                revision = revoke(servers.one, access_key=one.key.access_key).revision
                answered[place] = time.monotonic()
                asked.append(surely(servers.one, tokens[place]).verdict)
                told = surely(servers.other, tokens[place], at_least_revision=revision)
                asked.append(told.verdict)
                assert told.revision >= revision
        finally:
            ended.set()
        seen = watching.result()
    assert {pb.VERDICT_REVOKED} == set(asked)
    late = [one for one in seen if one.verdict == VALID and one.place < at[0]]
    assert [] == [one for one in late if one.start > answered[one.place] + MAX_STALENESS]
    assert VALID in {one.verdict for one in seen}


@pytest.mark.case(26)
def test_each_narrowing_is_visible_at_its_revision(servers: Servers) -> None:
    """A server with key and project cached applies it; a future revision is refused."""
    project = new_project(servers.one)
    made = servers.one.ask(key_request(project, "RESTRICTED"))
    named, revision = {"access_key": made.key.access_key}, made.revision
    asked = {"permissions": ["orders:read"]}
    assert VALID == surely(servers.other, made.secret_key, **asked).verdict
    for request, path, verdict in (
        (pb.UpdateKeyRequest(**named, permissions=["a:b"]), "permissions", MISSING_PERMISSION),
        (UpdateProjectRequest(project_id=project, suspended=True), "suspended", SUSPENDED),
        (pb.UpdateKeyRequest(**named, disabled=True), "disabled", pb.VERDICT_DISABLED),
    ):
        request.update_mask.paths.append(path)
        revision = servers.one.ask(request).revision
        told = surely(servers.other, made.secret_key, at_least_revision=revision, **asked)
        assert (verdict, True) == (told.verdict, told.revision >= revision)
    ahead = pb.VerifyRequest(secret_key=made.secret_key, at_least_revision=revision + 1000)
    told = servers.other.refused(ahead)
    assert ("FAILED_PRECONDITION", "REVISION_AHEAD") == (told.code.name, told.reason)


def test_metrics_report_the_record_cache(servers: Servers) -> None:
    """They show cache hits, cached keys and the age of the state."""
    made = new_key(servers.one, new_project(servers.one))
    for _ in range(3):
        surely(servers.other, made.secret_key)

    def is_reported() -> bool:
        text = scrape(servers.process)
        events = [value(text, "keyauthority_record_cache_total", each) for each in ("hit", "miss")]
        gauges = ("keyauthority_cached_keys", "keyauthority_staleness_seconds")
        return all(events) and all(value(text, name) for name in gauges)

    wait_until(is_reported)


@pytest.mark.case(30)
def test_verify_fails_within_the_bound_without_proof_of_freshness(
    servers: Servers,
) -> None:
    """With a readable or stopped database alike; it recovers by itself."""
    made = new_key(servers.one, new_project(servers.one))
    assert VALID == surely(servers.other, made.secret_key).verdict
    with commits_held_up(servers.cluster):
        told, seconds = until_refused(servers.other, made.secret_key)
        secret = servers.other.refused(pb.GetProjectIdRequest(secret_key=made.secret_key))
        read = servers.other.refused(pb.GetKeyRequest(access_key=made.key.access_key))
        assert [(made.revision,)] == execute(servers.url, "SELECT revision FROM log")
    assert {("UNAVAILABLE", "STALE")} == {
        (one.code.name, one.reason) for one in (told, secret, read)
    }
    assert seconds < MAX_STALENESS + SLACK_SECONDS
    wait_until(lambda: refused(servers.other, made.secret_key) is None, RECOVERY_SECONDS)
    servers.cluster.stop()
    try:
        told, seconds = until_refused(servers.other, made.secret_key)
    finally:
        servers.cluster.start()
    assert "UNAVAILABLE" == told.code.name
    assert told.reason in ("STALE", "STORE_UNAVAILABLE")  # the latter if it tried to read first
    assert seconds < MAX_STALENESS + SLACK_SECONDS
    wait_until(lambda: refused(servers.other, made.secret_key) is None, RECOVERY_SECONDS)
    assert VALID == surely(servers.other, made.secret_key, at_least_revision=made.revision).verdict


@pytest.mark.case(30)
async def test_without_the_heartbeat_an_old_primary_is_trusted(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: trusting reads alone, a database with hanging commits answers VALID."""
    store = open_store(cluster.take(), sign)
    root = await create(store, operator())
    try:
        async with following(store) as feed:
            await store.start_heartbeats(heartbeat_seconds(MAX_STALENESS))
            cache = RecordCache(
                store,
                ProvenFreshness(store, feed, MAX_STALENESS),
                Keyring(Path("pepper"), {1: bytes(32)}),
            )
            cache.position = await feed.subscribe(cache)
            assert (await cache.read((), root.access_key)).operator
            with commits_held_up(cluster):
                with pytest.raises(StoreStale):
                    await _look_for_ever(cache, root.access_key)
                monkeypatch.setattr(Heartbeat, "seen", lambda *_: monotonic())
                monkeypatch.setattr(PostgresStore, "proven_at", property(lambda _: monotonic()))
                assert (await cache.read((), root.access_key)).operator
    finally:
        await store.close()
        cluster.release()


async def _look_for_ever(cache: RecordCache, access_key: str) -> None:
    while True:
        assert (await cache.read((), access_key)).operator
        await asyncio.sleep(0.01)  # the feed goes on meanwhile
