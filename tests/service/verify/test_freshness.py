"""Revocation under full verification load: no VALID after the acknowledgement.

Every time is of one monotonic clock, taken before a verification is sent and after a revocation
was answered, so that every finding is certain.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Final, NamedTuple

import grpc
import pytest

from keyauthority.v1 import key_authority_service_pb2, key_pb2
from tests.conftest import Start, postgres_servers, sqlite_servers
from tests.proofs import scaled
from tests.service.callers import Caller, new_key, new_project, revoke, verdict, verify
from tests.service.lifecycle import HOUR, from_now, update, update_project
from tests.service.processes import ServerProcess

KEYS: Final = scaled(short=500, each=1000)
CONNECTIONS: Final = 12  # that all of them end at one of two workers has a chance of 2**-11
BEHIND, AHEAD = 12, 5  # keys verified in addition to those revoked since the last look
THREADS: Final = 8
REVOKERS: Final = 4  # at once, so that their commits are made together
OWN_CONNECTION: Final = (("grpc.use_local_subchannel_pool", 1),)

NARROW: Final = key_pb2.Restrictions(allowed_ips=["10.0.0.0/8"])
VALID: Final = key_authority_service_pb2.VERDICT_VALID
REVOKED: Final = key_authority_service_pb2.VERDICT_REVOKED


class Seen(NamedTuple):
    """One verification of one key."""

    place: int
    start: float
    verdict: int


Judge = Callable[[Sequence[int]], list[Seen]]
"""Verifies the keys at some places."""


class Progress:
    """How far the revocations are."""

    def __init__(self) -> None:
        self.place = 0
        self.ended = threading.Event()


def stale(seen: Sequence[Seen], answered: Sequence[float]) -> list[Seen]:
    """The verifications that said VALID although they started after the revocation's answer."""
    return [one for one in seen if one.verdict == VALID and one.start > answered[one.place]]


def in_batches(callers: Sequence[Caller], tokens: Sequence[str]) -> Judge:
    """Verify with BatchVerify, over one connection after the other."""
    turn = itertools.cycle(callers)

    def judge(places: Sequence[int]) -> list[Seen]:
        requests = [
            key_authority_service_pb2.VerifyRequest(secret_key=tokens[place]) for place in places
        ]
        start = time.monotonic()
        answer = next(turn).ask(key_authority_service_pb2.BatchVerifyRequest(requests=requests))
        return [
            Seen(place, start, one.verdict)
            for place, one in zip(places, answer.responses, strict=True)
        ]

    return judge


def one_by_one(callers: Sequence[Caller], tokens: Sequence[str]) -> Judge:
    """Verify the newest revocations with Verify, over one connection after the other."""
    turn = itertools.cycle(callers)

    def judge(places: Sequence[int]) -> list[Seen]:
        newest = places[-AHEAD - REVOKERS - 1 : -AHEAD : REVOKERS] or places[:1]
        return [
            Seen(place, time.monotonic(), verify(next(turn), tokens[place]).verdict)
            for place in newest
        ]

    return judge


def remembering(judge: Judge) -> Judge:
    """The fault that the checker must find: a verdict is asked for once, and kept."""
    known: dict[int, int] = {}

    def judge_once(places: Sequence[int]) -> list[Seen]:
        unknown = [place for place in places if place not in known]
        if unknown:
            known.update((one.place, one.verdict) for one in judge(unknown))
        start = time.monotonic()
        return [Seen(place, start, known[place]) for place in places]

    return judge_once


def watch(judges: Sequence[Judge], progress: Progress, count: int) -> list[list[Seen]]:
    """Verify the keys revoked since the last look and some around, until all are; and once more."""
    seen: list[list[Seen]] = [[] for _ in judges]
    ended = False
    last = 0
    while not ended:
        ended = progress.ended.is_set()
        at = progress.place
        places = range(max(last - BEHIND, 0), min(at + AHEAD, count))
        for judge, mine in zip(judges, seen, strict=True):
            mine += judge(places)
        last = at
    return seen


def revoke_all(
    pool: Executor, caller: Caller, access_keys: Sequence[str], progress: Progress
) -> list[float]:
    """Revoke the keys over one connection, a few at a time; return when each was answered."""
    answered = [0.0] * len(access_keys)
    left = iter(enumerate(access_keys))

    def revoke_some(_: int) -> None:
        for place, access_key in left:
            progress.place = place
            revoke(caller, access_key=access_key)
            answered[place] = time.monotonic()

    try:
        list(pool.map(revoke_some, range(REVOKERS)))
    finally:
        progress.ended.set()
    return answered


def connections(server: ServerProcess, stack: ExitStack, count: int) -> list[Caller]:
    """As many callers, each with a connection of its own."""
    return [
        Caller(
            stack.enter_context(grpc.insecure_channel(server.address, OWN_CONNECTION)),
            server.metadata,
        )
        for _ in range(count)
    ]


@pytest.mark.case(26)
def test_no_verify_is_valid_after_an_acknowledged_revocation(
    start_server: Start, transport: str
) -> None:
    """Holds over two workers; the same checker catches a server that caches verdicts."""
    server = start_server("--transport", transport, "--workers", "2")
    with ExitStack() as stack, ThreadPoolExecutor(THREADS) as pool:
        root, *others = connections(server, stack, 1 + CONNECTIONS)
        project = new_project(root)
        made = list(pool.map(lambda place: new_key(others[place % 4], project), range(KEYS)))
        tokens = [one.secret_key for one in made]
        progress = Progress()
        batches = in_batches(others[:6], tokens)
        watching = [
            pool.submit(watch, judges, progress, KEYS)
            for judges in ([batches, remembering(batches)], [one_by_one(others[6:], tokens)])
        ]
        answered = revoke_all(pool, root, [one.key.access_key for one in made], progress)
        (batched, remembered), (single,) = (one.result() for one in watching)
    assert [] == stale(batched, answered)
    assert [] == stale(single, answered)
    assert stale(remembered, answered)
    after = {one.place for one in batched + single if one.start > answered[one.place]}
    assert len(after) > KEYS // 2, "too few keys were verified at once after their revocation"
    assert {VALID, REVOKED} == {one.verdict for one in batched + single}


@pytest.fixture
def everywhere(server: ServerProcess) -> Iterator[list[Caller]]:
    """The first operator on many connections, so that each worker has some."""
    with ExitStack() as stack:
        yield connections(server, stack, CONNECTIONS)


@postgres_servers
def test_change_applies_on_every_server_for_callers_naming_its_revision(
    root: Caller, project: str, everywhere: list[Caller]
) -> None:
    """An answer of at least a change's revision applies that change, on any process."""
    made = new_key(root, project)
    for disabled, expected in ((True, "DISABLED"), (False, "VALID")):
        changed = update(root, made.key.access_key, disabled=disabled)
        assert {expected} == {
            verdict(caller, made.secret_key, at_least_revision=changed.revision)
            for caller in everywhere
        }


@pytest.mark.case(26)
@sqlite_servers
def test_change_applies_to_the_next_verify_on_every_worker(
    root: Caller, project: str, everywhere: list[Caller]
) -> None:
    """Each worker's first Verify after the acknowledgement applies the change."""
    made = new_key(root, project, "RESTRICTED", permissions=["orders:read", "orders:write"])
    access_key = made.key.access_key

    def seen() -> set[str]:
        return {
            verdict(caller, made.secret_key, permissions=["orders:write"]) for caller in everywhere
        }

    assert {"VALID"} == seen()
    update(root, access_key, permissions=["orders:read"])
    assert {"MISSING_PERMISSION"} == seen()
    update(root, access_key, permissions=["*:*"])
    assert {"VALID"} == seen()
    update_project(root, project, suspended=True)
    assert {"PROJECT_SUSPENDED"} == seen()
    update_project(root, project, suspended=False)
    update(root, access_key, restrictions=NARROW)
    assert {"IP_NOT_ALLOWED"} == seen()
    update(root, access_key, expire_time=from_now(-HOUR))
    assert {"EXPIRED"} == seen()
