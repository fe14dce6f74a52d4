"""The record cache: no interleaving of a fill and a change brings an ended key back.

Two processes on one store. One verifies a key again and again, so that it is read and kept just
while the other ends it. Once the change is acknowledged, no Verify that starts later is VALID.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from keyauthority.model import KeyKind, KeyMode, RateLimit, Restrictions, Revision, RevokeReason
from keyauthority.requests import KeyUpdate, NewKey, ProjectUpdate, Revocation, Rotation
from keyauthority.results import CreatedKey
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority_server import config
from keyauthority_server.records import RecordCache
from keyauthority_server.rpc import services
from keyauthority_server.rpc_types import DEFERRED, Call, RpcError, UnaryMethod
from keyauthority_server.runtime.bootstrap import open_authority, prepare
from tests.faults.folders import Process
from tests.postgres import Cluster
from tests.proofs import Proof, scaled

SERVICE = "keyauthority.v1.KeyAuthorityService"
FILLS: Final = scaled(short=60, each=10_000)
_AT_ONCE: Final = timedelta()
_NEVER_REACHED: Final = RateLimit(1_000_000_000, timedelta(days=1))
TRIES: Final = 5
READERS: Final = 3  # calls of one key at once: a fill may be under way in any of them


class World:
    """A process that verifies and one that changes."""

    def __init__(self, reader: Process, writer: Process, project_id: str) -> None:
        self.writer = writer
        self._records = reader.authority.records
        self.project_id = project_id
        self.deferred = 0
        """Calls whose limits were spent from at the end of a turn."""
        self.late = 0
        """Calls that were UNAVAILABLE."""
        verify = services(reader.authority, None)[SERVICE]["Verify"]
        assert isinstance(verify, UnaryMethod)
        self._verify = verify
        self._call = Call((("x-auth-token", reader.credential.text),), "ipv4:127.0.0.1:5000")

    async def create(self) -> CreatedKey:
        """Create a key, every second one with a limit."""
        new = NewKey(
            project_id=self.project_id,
            mode=KeyMode.LIVE,
            kind=KeyKind.SECRET,
            rate_limit=random.choice((None, _NEVER_REACHED)),
        )
        return await self.writer.authority.keys.create(
            await self.writer.caller("keys:create"), new, b""
        )

    async def catch_up(self, revision: int) -> None:
        """Wait until the process that verifies has applied a revision to its records."""
        while self._records.position < revision:
            self._records.catch_up()
            await asyncio.sleep(0)  # the change feed goes on meanwhile

    async def valid(self, secret_key: str, at_least_revision: int = 0) -> bool:
        """Verify a key in the other process; a verdict that cannot be told in time is asked again.

        A read takes longer than its two seconds now and then if the machine is overloaded.
        """
        for _ in range(TRIES):
            try:
                return await self._valid(secret_key, at_least_revision)
            except RpcError as refused:
                if refused.code != grpc.StatusCode.UNAVAILABLE.value[0]:
                    raise
                self.late += 1
        pytest.fail(f"{TRIES} calls in a row were not answered in time")

    async def _valid(self, secret_key: str, at_least_revision: int) -> bool:
        """Verify as the native transport does."""
        request = pb.VerifyRequest(secret_key=secret_key, at_least_revision=at_least_revision)
        body, settled = request.SerializeToString(), dict[int, Any]()
        shortcut = self._verify.shortcut
        assert shortcut is not None
        shortcut.begin_turn()
        answer: Any = shortcut(body, self._call, 1)
        if waiting := shortcut.end_turn(settled.__setitem__):
            await waiting
        if answer is DEFERRED:
            self.deferred += 1
            answer = settled[1]
        elif answer is None:
            answer = await self._verify.answer(body, self._call)
        return pb.VerifyResponse.FromString(answer).valid


async def revoke(world: World, created: CreatedKey) -> int:
    """Revoke the key; return the revision."""
    wanted = Revocation(reason=RevokeReason.OTHER)
    authority = world.writer.authority
    caller = await world.writer.caller("keys:revoke")
    return (await authority.keys.revoke(caller, created.key.access_key, wanted)).revision


async def _update(world: World, created: CreatedKey, **fields: object) -> int:
    update = KeyUpdate(access_key=created.key.access_key, paths=frozenset(fields), **fields)  # type: ignore[arg-type]  # as named
    caller = await world.writer.caller("keys:update")
    return (await world.writer.authority.updates.key(caller, update)).revision


async def disable(world: World, created: CreatedKey) -> int:
    """Disable the key."""
    return await _update(world, created, disabled=True)


async def narrow(world: World, created: CreatedKey) -> int:
    """Restrict the key to an address that no caller presents."""
    return await _update(world, created, restrictions=Restrictions(allowed_ips=("192.0.2.7",)))


async def rotate(world: World, created: CreatedKey) -> int:
    """Rotate the key without an overlap."""
    caller = await world.writer.caller("keys:rotate")
    rotation = Rotation(access_key=created.key.access_key, overlap=_AT_ONCE)
    return (await world.writer.authority.key_rotation.rotate(caller, rotation, b"")).revision


async def suspend(world: World, created: CreatedKey) -> int:
    """Suspend the project of the key."""
    return await _suspended(world, suspended=True)


async def _suspended(world: World, *, suspended: bool) -> int:
    update = ProjectUpdate(
        project_id=world.project_id, paths=frozenset({"suspended"}), suspended=suspended
    )
    caller = await world.writer.caller("projects:update")
    return (await world.writer.authority.updates.project(caller, update)).revision


CHANGES: Final[tuple[Callable[[World, CreatedKey], Awaitable[int]], ...]] = (
    revoke,
    revoke,
    disable,
    narrow,
    rotate,
    suspend,
)


@pytest.fixture(
    params=[
        # A fill takes 36 ms, and 100 ms on PostgreSQL, on a machine of two busy cores.
        pytest.param("sqlite", marks=pytest.mark.timeout(120 + FILLS // 10)),
        pytest.param("postgres", marks=pytest.mark.timeout(120 + FILLS // 5)),
    ]
)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    """Two processes on one store of each engine."""
    flags = {"data": str(tmp_path / "data"), "max_staleness": "30s"}
    if request.param == "postgres":
        cluster: Cluster = request.getfixturevalue("cluster")
        flags["store"] = cluster.create()
    (tmp_path / "data").mkdir(mode=0o700)
    settings = config.load(flags, {})
    await prepare(settings)
    async with AsyncExitStack() as opened:
        reader, writer = [
            Process(
                await opened.enter_async_context(open_authority(settings, checkpoints=first)),
                tmp_path / "data",
            )
            for first in (True, False)
        ]
        yield World(reader, writer, await writer.project())


async def stale_verdicts(world: World, times: int, *, at_once: bool = True) -> list[str]:
    """Let fills and changes race; return the changes after which a key was still VALID."""
    stale = []
    for _ in range(times):
        created = await world.create()
        secret, change = created.secret_key.reveal(), random.choice(CHANGES)
        if random.random() < 0.5:
            assert await world.valid(secret, created.revision)  # kept before, else filled meanwhile
            assert await world.valid(secret)  # from memory
        ended = asyncio.ensure_future(change(world, created))
        while not ended.done():
            await asyncio.gather(*(world.valid(secret) for _ in range(READERS)))
        revision = await ended
        answers = [await world.valid(secret, revision)] if at_once else []
        await world.catch_up(revision)
        answers += await asyncio.gather(*(world.valid(secret, revision) for _ in range(READERS)))
        if any(answers):
            stale.append(change.__name__)
        if change is suspend:
            await _suspended(world, suspended=False)
    return stale


@pytest.mark.case(26)
async def test_fill_racing_a_change_never_keeps_what_the_change_ended(
    world: World, proof: Proof
) -> None:
    """Revocation, disabling, narrowing, rotation and suspension, on both engines."""
    assert [] == await stale_verdicts(world, FILLS)
    assert world.deferred
    proof.done(f"{FILLS} fills raced with a change, 0 stale; {world.late} calls were UNAVAILABLE")


@pytest.mark.case(26)
async def test_catch_up_that_is_skipped_is_seen(
    world: World, proof: Proof, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: a cache that moves its position and applies nothing serves ended keys."""

    def skip(cache: RecordCache, changes: object, position: Revision) -> None:
        cache.position = position

    monkeypatch.setattr(RecordCache, "drop", lambda *_: None)
    monkeypatch.setattr(RecordCache, "clear", lambda *_: None)
    monkeypatch.setattr(RecordCache, "changed", skip)
    stale = await stale_verdicts(world, 20, at_once=False)  # such a Verify reads the record
    assert stale
    proof.control(f"{len(stale)} of 20 stale without the catch-up")
