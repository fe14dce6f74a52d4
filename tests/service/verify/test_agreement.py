"""Server and client agree on 10,000 random verifications: Verify against `decide`."""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Final

import grpc

from keyauthority import convert
from keyauthority.decision import decide, explain
from keyauthority.model import VerdictCode
from keyauthority.v1 import key_authority_service_pb2 as pb
from tests.conftest import Start
from tests.service.callers import Caller, new_project
from tests.service.lifecycle import update_project
from tests.service.random_keys import Subject, presentation, subject

KEYS: Final = 500
REQUESTS: Final = 20  # for each key
BATCH: Final = 1000
THREADS: Final = 8
SEED: Final = 20_261_123
NEVER_DRAWN: Final = (
    *(VerdictCode.MALFORMED, VerdictCode.UNKNOWN),
    *(VerdictCode.RATE_LIMITED, VerdictCode.QUOTA_EXCEEDED),
)


def judged_here(one: Subject, request: pb.VerifyRequest, now: datetime) -> tuple[str, ...]:
    """The library's result: the verdict, then all failed checks."""
    facts = convert.verify_query_from_proto(request).facts
    code = decide(one.key, one.project, facts, now)
    return (code.name, *(each.name for each in explain(one.key, one.project, facts, now)))


def judged_there(answer: pb.VerifyResponse) -> tuple[str, ...]:
    """The server's result: the verdict, then all failed checks."""
    named = (pb.Verdict.Name(number) for number in (answer.verdict, *answer.failed))
    return tuple(name.removeprefix("VERDICT_") for name in named)


def test_verify_agrees_with_decide_on_random_requests(start_server: Start, transport: str) -> None:
    """Verdict and explanation equal those of `decide` on the records that the API returns."""
    server = start_server("--transport", transport, "--workers", "2")
    chance = random.Random(SEED)
    with grpc.insecure_channel(server.address) as channel, ThreadPoolExecutor(THREADS) as pool:
        root = Caller(channel, server.metadata)
        projects = [new_project(root) for _ in range(6)]
        update_project(root, projects[0], suspended=True)
        seeds = [random.Random(chance.random()) for _ in range(KEYS)]
        subjects = list(pool.map(lambda seed: subject(root, projects, seed), seeds))
        access_keys = [one.key.access_key for one in subjects]
        asked = [
            (one, presentation(chance, one, projects, access_keys)) for one in subjects * REQUESTS
        ]
        now = datetime.now(UTC)
        there = [
            judged_there(answer)
            for start in range(0, len(asked), BATCH)
            for answer in root.ask(
                pb.BatchVerifyRequest(requests=[each for _, each in asked[start : start + BATCH]])
            ).responses
        ]
        here = [judged_here(one, request, now) for one, request in asked]
    differing = [
        (request, mine, its)
        for (_, request), mine, its in zip(asked, here, there, strict=True)
        if mine != its
    ]
    assert [] == differing
    reached = Counter(first for first, *_ in there)
    assert {code.name for code in VerdictCode if code not in NEVER_DRAWN} == reached.keys()
    assert KEYS * REQUESTS == reached.total()
