"""The cost of many keys: Verify, a page of ListKeys, the start, files and memory.

Verify is timed from the request's bytes to the answer's, in this process, all stores in turn: the
transport would only dilute the ratio.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, NamedTuple

import grpc

from benchmarks.authority import SERVICE, resident, started
from benchmarks.figures import Part, quantile
from benchmarks.run import Run
from benchmarks.stores import NEEDED, Filled, filled, open_sealed
from keyauthority.clock import SystemClock
from keyauthority.requests import KeyFilter
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority_server import rpc
from keyauthority_server.rpc_types import Call, UnaryMethod
from keyauthority_server.runtime import bootstrap
from keyauthority_server.store.sql.queries.lists import list_keys
from keyauthority_server.store.sqlite.store import SqliteStore
from tests.service.processes import ServerProcess

_SAME: Final = 1_000  # of the keys that are verified again and again
_CALLS: Final = 2_000  # of Verify in each round
_PAGES: Final = 20
_PAGE: Final = 100
_BATCH: Final = 500
_USED: Final = 50_000  # keys that a worker has verified when its memory is read
_STARTS: Final = 3
_TEXT: Final = """\
Stores on SQLite, all keys in one project. Verify's times are p50 in the process, without a
transport; "from all over" are 100,000 keys in random order, the others the same 1,000 in random
order. A worker's memory is its resident size once it has verified 50,000 of those. In turns, all of
those are verified one after the other, again and again, in batches of 500, which no cache of fewer
keys can help. The start is from exec to the ready line."""


class _Side(NamedTuple):
    """One store, opened as a worker does."""

    filled: Filled
    bodies: list[bytes]
    verify: UnaryMethod
    call: Call
    store: SqliteStore


def measure(run: Run) -> Part:
    """Fill the stores that are not there yet, and measure all of them in turn."""
    part = Part("Number of keys", _TEXT)
    asyncio.run(_measure(run, part))
    few = f"{run.keys[0]:,} keys"
    for number in run.keys[1:]:
        many = f"{number:,} keys"
        for what in ("Verify, the same 1,000 keys", "Verify, keys from all over"):
            aim = "≤ 1.2" if what.startswith("Verify, the same") else ""
            part.compare(f"{what}: {many} to {few}", f"{many}: {what}", f"{few}: {what}", aim)
        page = "page in the middle"
        part.compare(f"{page}: {many} to {few}", f"{many}: {page}", f"{few}: {page}")
    return part


async def _measure(run: Run, part: Part) -> None:
    random.seed(1)  # the order in which keys are verified
    stores = [await filled(run.stores, number) for number in run.keys]
    async with AsyncExitStack() as stack:
        sides = [await _side(one, stack) for one in stores]
        times: dict[str, list[float]] = {}
        for _ in range(run.rounds + 1):  # the first warms up
            for side in sides:
                named = f"{side.filled.keys:,} keys: "
                for what, taken in (
                    ("Verify, the same 1,000 keys", await _verify(side, side.bodies[:_SAME])),
                    ("Verify, keys from all over", await _verify(side, side.bodies)),
                    ("first page", await _page(side, 0)),
                    ("page in the middle", await _page(side, side.filled.keys // 2)),
                ):
                    times.setdefault(named + what, []).append(taken)
    part.add("µs", {name: rounds[1:] for name, rounds in times.items()})
    for one in stores:
        named = f"{one.keys:,} keys: "
        starts, used = _served(run, one)
        part.add("s", {named + "start": starts})
        part.add("MB", {named + "memory of a worker": [used.memory]})
        part.add("MB", {named + "memory of a worker, keys in turns": [used.memory_in_turns]})
        part.add("keys/s", {named + "BatchVerify, keys in turns": used.rates})
        part.add("MB", {named + "files": [one.megabytes]})


async def _side(one: Filled, stack: AsyncExitStack) -> _Side:
    authority = await stack.enter_async_context(
        bootstrap.open_authority(one.settings, checkpoints=True)
    )
    operator_key = (one.settings.data / bootstrap.OPERATOR_KEY).read_text().strip()
    verify = rpc.services(authority, None)[SERVICE.strip("/")]["Verify"]
    assert isinstance(verify, UnaryMethod)
    call = Call((("x-auth-token", operator_key),), "ipv4:127.0.0.1:1")
    store = open_sealed(one.settings)
    stack.push_async_callback(store.close)
    bodies = [
        pb.VerifyRequest(secret_key=token, permissions=[NEEDED]).SerializeToString()
        for token in one.tokens
    ]
    return _Side(one, bodies, verify, call, store)


async def _verify(side: _Side, bodies: Sequence[bytes]) -> float:
    """Return the p50 of Verify in µs."""
    times, answer = [], b""
    for body in random.choices(bodies, k=_CALLS):  # noqa: S311 - no secret
        begun = time.perf_counter()
        answer = await side.verify(body, side.call)
        times.append(time.perf_counter() - begun)
    assert pb.VerifyResponse.FromString(answer).valid
    return quantile(times, 0.5) * 1e6


async def _page(side: _Side, after: int) -> float:
    """Return the p50 of reading a page in µs."""
    now = SystemClock().now()
    times = []
    for _ in range(_PAGES):
        begun = time.perf_counter()
        await side.store.query(
            list_keys, side.filled.project_id, None, KeyFilter(), now, after, _PAGE
        )
        times.append(time.perf_counter() - begun)
    return quantile(times, 0.5) * 1e6


class _Used(NamedTuple):
    """A worker that has verified many keys."""

    memory: float
    """In MB, with 50,000 keys."""
    memory_in_turns: float
    """In MB, after all keys in turns."""
    rates: list[float]
    """Keys a second, of each turn."""


def _served(run: Run, one: Filled) -> tuple[list[float], _Used]:
    """Return the seconds that a server takes to start, and its worker after the load."""
    seconds, used = [], None
    for _ in range(min(run.rounds, _STARTS)):
        begun = time.perf_counter()
        with started(run, one.settings.data) as server:
            seconds.append(time.perf_counter() - begun)
            used = used or _use(server, one.tokens, run.rounds)
    assert used is not None
    return seconds, used


def _use(server: ServerProcess, tokens: Sequence[str], turns: int) -> _Used:
    """Verify 50,000 keys, then all of them in turns."""
    _verify_all(server, tokens[:_USED])
    memory, rates = max(map(resident, server.worker_pids())), []
    for _ in range(turns):
        begun = time.perf_counter()
        _verify_all(server, tokens)
        rates.append(len(tokens) / (time.perf_counter() - begun))
    return _Used(memory, max(map(resident, server.worker_pids())), rates)


def _verify_all(server: ServerProcess, tokens: Sequence[str]) -> None:
    """Verify tokens in batches."""
    with grpc.insecure_channel(server.address) as channel:
        call: Any = channel.unary_unary(
            f"{SERVICE}/BatchVerify", response_deserializer=pb.BatchVerifyResponse.FromString
        )
        metadata = (("x-auth-token", server.operator_key),)
        for first in range(0, len(tokens), _BATCH):
            items = [pb.VerifyRequest(secret_key=token) for token in tokens[first:][:_BATCH]]
            body = pb.BatchVerifyRequest(requests=items).SerializeToString()
            assert all(answer.valid for answer in call(body, metadata=metadata).responses)
