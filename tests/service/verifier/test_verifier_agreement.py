"""Server and in-process verifier give equal answers to random requests, field by field."""

from __future__ import annotations

import os
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc

from keyauthority import Client, Verdict, convert
from keyauthority.model import VerdictCode
from keyauthority.v1 import key_authority_service_pb2 as pb
from tests.conftest import one_server
from tests.service.callers import Caller, new_project, with_other_secret
from tests.service.lifecycle import update_project
from tests.service.processes import ServerProcess
from tests.service.random_keys import presentation, subject
from tests.service.verifiers import threads, told

pytestmark = one_server

REQUESTS: Final = int(os.environ.get("PROVE", "2000"))
"""How many; PROVE=100000 takes some minutes."""
A_KEY: Final = 20
THREADS: Final = 8
SEED: Final = 20_261_124
LIMITED: Final = {VerdictCode.RATE_LIMITED, VerdictCode.QUOTA_EXCEEDED}


def asked(chance: random.Random, request: pb.VerifyRequest) -> tuple[str, dict[str, Any]]:
    """The token, at times another, and the arguments of a verification."""
    token = request.secret_key
    drawn = chance.random()
    if drawn < 0.05:
        token = token[:-1] + ("1" if token[-1] != "1" else "2")
    elif drawn < 0.1 and len(token) > 40:
        token = with_other_secret(token)
    facts = convert.verify_query_from_proto(request).facts
    return token, facts._asdict() | {"explain": chance.random() < 0.5}


def test_in_process_verdict_equals_the_servers(server: ServerProcess) -> None:
    """All fields are equal except the revision, which may have advanced."""
    chance = random.Random(SEED)
    key = server.operator_key
    with grpc.insecure_channel(server.address) as channel, ThreadPoolExecutor(THREADS) as pool:
        root = Caller(channel, server.metadata)
        projects = [new_project(root) for _ in range(6)]
        update_project(root, projects[0], suspended=True)
        seeds = [random.Random(chance.random()) for _ in range(REQUESTS // A_KEY)]
        subjects = list(pool.map(lambda seed: subject(root, projects, seed), seeds))
        access_keys = [one.key.access_key for one in subjects]
        questions = [
            asked(chance, presentation(chance, one, projects, access_keys))
            for one in subjects * A_KEY
        ]
        with (
            Client(server.address, operator_key=key) as client,
            threads(server.address, key) as verifier,
        ):
            told(verifier, client.verify("").revision)

            def there(question: tuple[str, dict[str, Any]]) -> Verdict:
                return client.verify(question[0], **question[1])._replace(revision=0)

            for token in {token for token, _ in questions}:
                verifier.verify(token)
            calls = len(verifier.asked)
            here = [
                verifier.verify(token, **question)._replace(revision=0)
                for token, question in questions
            ]
            theirs = list(pool.map(there, questions))
    assert [] == [both for both in zip(questions, here, theirs, strict=True) if both[1] != both[2]]
    assert "verify" not in verifier.asked[calls:]
    assert set(VerdictCode) - LIMITED == Counter(one.code for one in here).keys()
