"""Concurrent rotate, revoke, update and verify of one key are linearizable."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, NamedTuple

import grpc
import pytest

from keyauthority.v1 import key_authority_service_pb2 as pb
from tests.conftest import postgres_servers, sqlite_servers
from tests.proofs import Proof, scaled
from tests.service.callers import Caller, get_key, new_key, refusal, revoke, verdict, verify
from tests.service.lifecycle import rotate, state, update
from tests.service.processes import ServerProcess

ROUNDS: Final = scaled(short=8, each=50)
VERIFIERS: Final = 3
OVERLAP: Final = 3600.0  # seconds: no round lasts so long


class Verified(NamedTuple):
    """An answer of Verify, and whether it was asked for after RevokeKey was answered."""

    revision: int
    verdict: str
    afterwards: bool


def changed(change: Callable[[], Any], start: threading.Barrier) -> Any:
    """Return the answer, or None if the key was beyond it."""
    start.wait()
    try:
        return change()
    except grpc.RpcError as failure:
        if refusal(failure).code is not grpc.StatusCode.FAILED_PRECONDITION:
            raise
        return None


def verified(
    caller: Caller, secret_key: str, start: threading.Barrier, answered: list[int], *, proven: bool
) -> list[Verified]:
    """Verify until the revocation was answered, and twice more; `proven` asks for its revision."""
    start.wait()
    seen: list[Verified] = []
    while sum(one.afterwards for one in seen) < 2:
        afterwards = bool(answered)
        newest = answered[0] if answered and proven else 0
        answer = verify(caller, secret_key, at_least_revision=newest)
        name = pb.Verdict.Name(answer.verdict).removeprefix("VERDICT_")
        seen.append(Verified(answer.revision, name, afterwards))
    return seen


def race(callers: list[Caller], made: Any, *, proven: bool) -> int:
    """Let all of it happen at once; return the number of verdicts seen."""
    access_key, answered = made.key.access_key, list[int]()
    start = threading.Barrier(len(callers))

    def end() -> Any:
        answer = revoke(callers[0], access_key=access_key)
        answered.append(answer.revision)
        return answer

    changes = (
        end,
        lambda: rotate(callers[1], access_key, OVERLAP),
        lambda: update(callers[2], access_key, disabled=True),
    )
    with ThreadPoolExecutor(len(callers)) as pool:
        made_of = [pool.submit(changed, change, start) for change in changes]
        looks = [
            pool.submit(verified, caller, made.secret_key, start, answered, proven=proven)
            for caller in callers[len(changes) :]
        ]
        ended, rotated, disabled = (one.result() for one in made_of)
        seen = [each for look in looks for each in look.result()]
    assert ended is not None, "any key can be revoked"
    revisions = [one.revision for one in (ended, rotated, disabled) if one is not None]
    assert len(set(revisions)) == len(revisions)
    assert max(revisions) == ended.revision, "a revoked key takes no other change"

    def expected(revision: int) -> str:
        if revision >= ended.revision:
            return "REVOKED"
        off = disabled is not None and revision >= disabled.revision
        return "DISABLED" if off else "VALID"

    assert [] == [one for one in seen if one.verdict != expected(one.revision)]
    assert {"REVOKED"} == {one.verdict for one in seen if one.afterwards}
    assert "REVOKED" == state(get_key(callers[0], access_key))
    if rotated is not None:
        off = disabled is not None and disabled.revision < rotated.revision
        assert ("DISABLED" if off else "VALID") == verdict(callers[0], rotated.secret_key)
    return len(seen)


def race_often(server: ServerProcess, root: Caller, project: str, *, proven: bool) -> str:
    """Race repeatedly, each caller on a connection of its own; return the operations."""
    options = (("grpc.use_local_subchannel_pool", 1),)
    channels = [
        grpc.insecure_channel(server.address, options=options) for _ in range(3 + VERIFIERS)
    ]
    callers = [Caller(channel, root.metadata) for channel in channels]
    seen = sum(race(callers, new_key(root, project), proven=proven) for _ in range(ROUNDS))
    for channel in channels:
        channel.close()
    return f"{ROUNDS} races, {seen} verdicts, each that of its revision"


@pytest.mark.case(16)
@sqlite_servers
def test_concurrent_changes_and_verifies_are_linearizable(
    server: ServerProcess, root: Caller, project: str, proof: Proof
) -> None:
    """Each verdict fits its revision; after the revocation returns all are REVOKED."""
    proof.done(race_often(server, root, project, proven=False))


@pytest.mark.case(16)
@postgres_servers
def test_concurrent_changes_and_verifies_are_linearizable_on_postgres(
    server: ServerProcess, root: Caller, project: str, proof: Proof
) -> None:
    """Callers demand at least the revision that the revocation returned."""
    proof.done(race_often(server, root, project, proven=True))
