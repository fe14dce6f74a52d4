"""The cost of watchers for other calls, and the delay of a revocation to the last one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import grpc.aio

from benchmarks.authority import SERVICE, Authority, serving
from benchmarks.figures import Part
from benchmarks.h2load import Load, require
from benchmarks.run import Run, on_core
from keyauthority.v1 import key_authority_service_pb2 as pb

_EACH: Final = 50  # watchers on one connection
_REVOKED: Final = 20  # keys whose way to the last watcher is timed
_WAIT_SECONDS: Final = 30
_TEXT: Final = f"""\
Calls a second of Verify of one question, repeated, native transport, SQLite, one core, while so
many watch; they get a heartbeat every half a second. Memory is the worker's resident size. The time
is from before RevokeKey is sent to when the last watcher has read of it, of {_REVOKED} revocations;
the watchers are one process in Python, which takes a part of it."""


def measure(run: Run) -> Part:
    """Measure with more and more watchers."""
    require()
    part = Part("Watchers", _TEXT)
    for number in run.watchers:
        with serving(run, f"watchers-{number}") as authority, on_core(run.load_core):
            load = Load(run, authority.verify(authority.create()))
            keys = [authority.create().key.access_key for _ in range(_REVOKED)]
            name = f"{number:,} watchers"
            times, rates, memory = asyncio.run(_watched(run, authority, number, keys, load))
        part.add("calls/s", {name: rates})
        part.add("MB", {f"{name}, memory": [memory]})
        if times:
            part.add(
                "ms", {f"{name}, the last one knows, p50": sorted(times)[len(times) // 2 :][:1]}
            )
            part.add("ms", {f"{name}, the last one knows, worst": [max(times)]})
    first, last = (f"{number:,} watchers" for number in (run.watchers[0], run.watchers[-1]))
    part.compare(f"{last} to none", last, first)
    return part


async def _watched(
    run: Run, authority: Authority, number: int, keys: list[str], load: Load
) -> tuple[list[float], list[float], float]:
    """Return ms until the last watcher knows, Verify's rates meanwhile, and the worker's MB."""
    async with _watchers(authority, number) as crowd:
        times = []
        for access_key in keys if number else ():
            before = time.perf_counter()
            await asyncio.to_thread(authority.client.revoke_key, access_key)
            await asyncio.wait_for(crowd.all_know(access_key), _WAIT_SECONDS)
            times.append((time.perf_counter() - before) * 1e3)
        await asyncio.to_thread(load)
        rates = [await asyncio.to_thread(load) for _ in range(run.rounds)]
        return times, rates, max(authority.worker_memory())


class _Crowd:
    """Counts who has read of which revocation."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._left: dict[str, int] = {}
        self._known: dict[str, asyncio.Event] = {}

    async def all_know(self, access_key: str) -> None:
        """Wait until everybody has read of it."""
        await self._known.setdefault(access_key, asyncio.Event()).wait()

    def read(self, update: pb.WatchChangesResponse) -> None:
        """Count the changes read by one watcher."""
        for change in update.changes:
            for key in change.keys:
                left = self._left.get(key.access_key, self._number) - 1
                self._left[key.access_key] = left
                if not left:
                    self._known.setdefault(key.access_key, asyncio.Event()).set()


@asynccontextmanager
async def _watchers(authority: Authority, number: int) -> AsyncIterator[_Crowd]:
    """Give so many watchers, all of which have had their first checkpoint."""
    crowd = _Crowd(number)
    metadata = (("x-auth-token", authority.server.operator_key),)
    body = pb.WatchChangesRequest(project_id=authority.project_id).SerializeToString()
    begun = asyncio.Semaphore(0)
    channels = [
        grpc.aio.insecure_channel(
            authority.server.address, (("grpc.use_local_subchannel_pool", 1),)
        )
        for _ in range(0, number, _EACH)
    ]

    async def watch(channel: grpc.aio.Channel) -> None:
        opened: Any = channel.unary_stream(
            f"{SERVICE}/WatchChanges", response_deserializer=pb.WatchChangesResponse.FromString
        )
        stream = opened(body, metadata=metadata)
        first = True
        async for update in stream:
            crowd.read(update)
            if first:
                first = False
                begun.release()

    tasks = [asyncio.create_task(watch(channels[place // _EACH])) for place in range(number)]
    try:
        for _ in range(number):
            await asyncio.wait_for(begun.acquire(), _WAIT_SECONDS)
        yield crowd
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for channel in channels:
            await channel.close()
