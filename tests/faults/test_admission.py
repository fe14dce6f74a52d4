"""Rejected calls are decided on raw bytes, cost little and leave nothing in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

import grpc
import pytest

from keyauthority.model import KeyKind, KeyMode
from keyauthority.token import make, new_access_key, new_secret
from keyauthority.v1 import key_authority_service_pb2 as pb
from tests.conftest import NATIVE_AT_LEAST
from tests.faults.attacks import MIB, Cost, metered, resident
from tests.faults.bitflips import environment
from tests.proofs import PROVE, Proof, scaled
from tests.service.callers import Caller, bearer, new_key, new_operator, new_project
from tests.service.processes import ServerProcess, start

LARGE: Final = 400_000  # bytes of a refused call
KEPT_CALLS: Final = 30
CALLS: Final = scaled(short=1, each=10)  # of each attack
SECONDS_MAX: Final = 0.3  # of the event loop, for one call
KEPT_MAX: Final = 64 * MIB  # by all attacks together
WAIT_MAX: Final = 0.3 if PROVE else 2.0  # `make prove` has the machine for itself

ITEM: Final = pb.VerifyRequest(secret_key="x" * 78, permissions=["orders:read"] * 100)
NESTED: Final = b"\x0a\x90\x1f" + b"\x2a\x00" * 2000  # an item of 2,000 permissions

RESTRICTIONS: Final = pb.CreateKeyRequest.RESTRICTIONS_FIELD_NUMBER


def within(number: int, body: bytes) -> bytes:
    """A message of 2 MiB in a field with this number."""
    return bytes([number << 3 | 2, 0x80, 0x80, 0x80, 0x01]) + body


BODIES: Final = {
    "a batch of empty items": ("BatchVerify", b"\x0a\x00" * 2_097_102),
    "usage of empty rows": ("ReportUsage", b"\x12\x00" * 2_000_000),
    "a batch of long lists": ("BatchVerify", NESTED * 1000),
    "a batch of unknown fields": ("BatchVerify", b"\xf8\x07\x00" * 1_300_000),
    "a list of needed permissions": ("Verify", b"\x2a\x00" * 2_000_000),
    "a field that is set again": ("Verify", b"\x0a\x00" * 2_000_000),
    "a map of empty entries": ("CreateKey", b"\x5a\x00" * 2_000_000),
    "a list of empty restrictions": (
        "CreateKey",
        b"\x32\x84\x80\x80\x01" + b"\x1a\x00" * (MIB + 2),
    ),
    "a mask of empty paths": ("UpdateKey", b"\x5a\x84\x80\x80\x01" + b"\x0a\x00" * (MIB + 2)),
    "a secret that is set again": ("GetProjectId", b"\x12\x00" * 2_000_000),
    "a secret that is set again, to revoke": ("RevokeKey", b"\x12\x00" * 2_000_000),
    "a large watch": ("WatchChanges", b"\x0a\x00" * 2_000_000),
    "a full batch that is damaged": (
        "BatchVerify",
        pb.BatchVerifyRequest(requests=[ITEM] * 1000).SerializeToString()[:-1],
    ),
}
"""Requests that are costly to parse: a method and its message."""


class World(NamedTuple):
    """A server that collects no garbage, and those who call it."""

    server: ServerProcess
    honest: Caller
    secret_key: str
    attackers: dict[str, Caller]


@pytest.fixture(scope="module", params=NATIVE_AT_LEAST)
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """One for each transport."""
    folder = tmp_path_factory.mktemp("admission")
    flags = ("--transport", request.param)
    server = start(folder / "data", *flags, settings=environment(uncollected="1"))
    own = (("grpc.use_local_subchannel_pool", 1),)
    with (
        grpc.insecure_channel(server.address) as channel,
        grpc.insecure_channel(server.address, own) as other,
    ):
        root = Caller(channel, server.metadata)
        project = new_project(root)
        confined = new_operator(root, "*:*", projects=[project])
        forged = make(KeyKind.OPERATOR, KeyMode.LIVE, new_access_key(), new_secret()).reveal()
        attackers = {
            "a stranger": Caller(other),
            "one with a forged key": Caller(other, (bearer(forged),)),
            "a confined operator": Caller(other, confined.metadata),
        }
        yield World(server, root, new_key(root, project).secret_key, attackers)
    server.stop()


def attacked(world: World, caller: Caller, name: str, body: bytes) -> tuple[Cost, set[str]]:
    """Make one call some times; return its cost and its status."""
    codes = set()
    with metered(world.server, world.honest, world.secret_key) as meter:
        for _ in range(CALLS):
            refused = caller.outcome(name, body)
            codes.add(f"{refused.code.name} {refused.reason}" if refused else "OK")
    return meter.cost, codes


def expected(who: str, name: str) -> str:
    """The status that the contract's order of errors gives a caller for such a request."""
    known = who == "a confined operator" and name != "GetProjectId"
    return "INVALID_ARGUMENT" if known else "UNAUTHENTICATED"


def test_costly_request_is_rejected_before_it_is_parsed(world: World, proof: Proof) -> None:
    """Rejected calls neither block the event loop nor leave anything in memory.

    A caller without credential gets UNAUTHENTICATED, an operator the name of the long field.
    """
    for caller in world.attackers.values():  # buffers and threads of a first large call stay
        caller.outcome("Verify", bytes(4 * MIB - 100))
    before = resident(world.server)
    dearest, waits = 0.0, []
    for who, caller in world.attackers.items():
        for what, (name, body) in BODIES.items():
            cost, codes = attacked(world, caller, name, body)
            assert {expected(who, name)} == {one.partition(" ")[0] for one in codes}, (who, what)
            assert SECONDS_MAX > cost.seconds / CALLS, (who, what)
            assert WAIT_MAX > cost.worst, (who, what)
            dearest = max(dearest, cost.seconds / CALLS)
            waits += cost.waits
    kept = resident(world.server) - before
    assert KEPT_MAX > kept
    waits.sort()
    proof.done(
        f"{len(world.attackers) * len(BODIES)} attacks of {CALLS} calls: at most "
        f"{dearest * 1000:.0f} ms of the event loop for one; honest Verify p99 "
        f"{waits[len(waits) * 99 // 100] * 1000:.0f} ms, worst {waits[-1] * 1000:.0f} ms; "
        f"memory grew by {kept / MIB:.0f} MiB"
    )


def test_rejected_calls_leave_no_memory_without_a_collector(world: World) -> None:
    """A reference cycle would keep 400 KB of each rejected request."""
    body = pb.VerifyRequest(secret_key="x" * LARGE).SerializeToString()
    names = ("BatchVerify", "GetProjectId", "RevokeKey", "CreateKey", "WatchChanges", "ReportUsage")
    for caller in world.attackers.values():
        for name in names:
            for _ in range(3):  # buffers of a first large call stay
                caller.outcome(name, body)
            before = resident(world.server)
            for _ in range(KEPT_CALLS):
                assert caller.outcome(name, body)
            assert KEPT_CALLS * LARGE / 2 > resident(world.server) - before, name
