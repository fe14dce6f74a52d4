"""Guessing: floods of random well-formed tokens, via a gateway and unauthenticated."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import Final

import grpc
import pytest
from google.rpc.status_pb2 import Status

from keyauthority.convert import error_from_status
from keyauthority.errors import ErrorReason
from keyauthority.model import KeyKind, KeyMode
from keyauthority.token import AccessKey, make, new_access_key, new_secret
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority_server.logs import LINES_MAX
from keyauthority_server.overload.throttle import FAILURES_AT_ONCE
from tests.conftest import NATIVE_AT_LEAST, Start
from tests.faults.fuzz import memory_of
from tests.faults.load import Line
from tests.service.callers import Caller, new_key, new_project, revoke, verdict

PROVE: Final = int(os.environ.get("PROVE", "1"))  # 50 makes it a million tokens
GUESSES: Final = 20_000 * PROVE
BATCH: Final = 1_000
HONEST: Final = 200 * PROVE
REFUSED: Final = 3_000 * PROVE
LARGE: Final = 20_000  # bytes of a refused call
CHUNK: Final = 500  # calls without a credential at once, until one is refused
WAIT_MAX: Final = 1.0  # seconds: many times the wait of honest callers on an idle machine


def guess(access_key: AccessKey | None = None) -> str:
    """Return a well-formed token that was never issued; of an existing key, if one is given."""
    return make(KeyKind.SECRET, KeyMode.TEST, access_key or new_access_key(), new_secret()).reveal()


async def guess_on(line: Line, access_key: AccessKey) -> int:
    """Guess in batches, every other one at the secret of one key; return how many were right."""
    hits = 0
    for number in range(GUESSES // BATCH):
        aimed = access_key if number % 2 else None
        asked = [pb.VerifyRequest(secret_key=guess(aimed)) for _ in range(BATCH)]
        raw = await line.call(pb.BatchVerifyRequest(requests=asked).SerializeToString())
        answers = pb.BatchVerifyResponse.FromString(raw).responses
        hits += sum(one.verdict != pb.VERDICT_UNKNOWN for one in answers)
    return hits


async def flood(line: Line) -> tuple[Counter[str], set[ErrorReason | None]]:
    """Guess without a credential until that is refused; return the statuses and their reasons."""
    refused: Counter[str] = Counter()
    statuses: set[bytes] = set()
    for _ in range(4 * FAILURES_AT_ONCE // CHUNK):
        requests = [pb.GetProjectIdRequest(secret_key=guess()) for _ in range(CHUNK)]
        load = await line.offer([one.SerializeToString() for one in requests], rate=10_000)
        assert 0 == load.answered
        refused += load.refused
        statuses |= load.statuses
        if refused["RESOURCE_EXHAUSTED"]:
            break
    return refused, {error_from_status(Status.FromString(raw)).reason for raw in statuses}


@pytest.mark.prove
async def test_guessing_finds_no_key_and_slows_no_other_caller(
    start_server: Start, transport: str
) -> None:
    """No guess is VALID, the log stays short, and clients of the same gateway are served."""
    server = start_server("--transport", transport)
    with grpc.insecure_channel(server.address) as channel:
        root = Caller(channel, server.metadata)
        known = new_key(root, new_project(root))
        access_key = AccessKey(known.key.access_key)
        honest = Line(server.address, "Verify", server.metadata, connections=1)
        guessing = Line(server.address, "BatchVerify", server.metadata, connections=1)
        bare = Line(server.address, "GetProjectId", (), connections=2)
        body = pb.VerifyRequest(secret_key=known.secret_key).SerializeToString()
        try:
            served, hits = await asyncio.gather(
                honest.offer([body] * HONEST, rate=100), guess_on(guessing, access_key)
            )
            refused, reasons = await flood(bare)
        finally:
            await asyncio.gather(honest.close(), guessing.close(), bare.close())
        assert (0, HONEST) == (hits, served.answered)
        assert WAIT_MAX > served.waits[int(HONEST * 0.99) - 1]
        assert {"UNAUTHENTICATED", "RESOURCE_EXHAUSTED"} == set(refused)
        assert FAILURES_AT_ONCE <= refused["UNAUTHENTICATED"]
        assert {ErrorReason.CREDENTIAL_INVALID, ErrorReason.OVERLOADED} == reasons
        assert "VALID" == verdict(root, known.secret_key)
        revoke(root, access_key=access_key)
        assert "REVOKED" == verdict(root, known.secret_key)
    assert LINES_MAX > len(server.log_text().splitlines())


@pytest.mark.parametrize("transport", NATIVE_AT_LEAST, indirect=True)
async def test_rejected_calls_leave_no_memory(start_server: Start, transport: str) -> None:
    """A server holds nothing of rejected calls, however many."""
    server = start_server("--transport", transport)
    bare = Line(server.address, "GetProjectId", (), connections=2)
    body = pb.GetProjectIdRequest(secret_key="x" * LARGE).SerializeToString()
    refused: Counter[str] = Counter()
    before = 0
    try:
        await flood(bare)
        while refused["RESOURCE_EXHAUSTED"] < REFUSED:  # on a slow machine some may fail again
            load = await bare.offer([body] * CHUNK, rate=10_000)
            refused += load.refused
            before = before or memory_of(server)  # once it has seen the largest
    finally:
        await bare.close()
    assert {"UNAUTHENTICATED", "RESOURCE_EXHAUSTED"} >= set(refused)
    assert REFUSED * LARGE / 2 > memory_of(server) - before
