"""Sustained mixed load, a tenth of it cancelled, and the resources of a server meanwhile."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final, NamedTuple

import grpc
from google.protobuf.message import Message

from keyauthority.v1 import audit_service_pb2, project_service_pb2, usage_service_pb2
from keyauthority.v1 import key_authority_service_pb2 as pb
from tests.service.callers import CALL_SECONDS, METHODS, Caller, key_request, new_key, new_project
from tests.service.imports import import_set, imported, item, new_token
from tests.service.lifecycle import update_request
from tests.service.processes import ServerProcess

CLIENTS: Final = 4
PAUSE_SECONDS: Final = 0.02  # on average, between two calls of a client
CANCELLED: Final = 0.1  # of all calls
CANCELLED_AFTER: Final = 0.004  # seconds, at most: before, while and after the server works on it
FILLERS: Final = 8
FILLED_AT_ONCE: Final = 1_000  # keys in a call
SAMPLES: Final = 40  # of a run
KEYS: Final = 50  # that a client has at a time
MIB: Final = 1 << 20
_POOL: Final = "event_engine"  # the name that grpcio gives them
UNANSWERED: Final = "write_unanswered"
"""The event logged for a cancelled write: at most 50 in 10 s, as for all events."""


class Held(NamedTuple):
    """The resources of all processes of a server at one moment."""

    memory: int
    """Private bytes: pages mapped from files come and go."""
    descriptors: int
    threads: int
    pooled: int
    """Threads of grpcio's own pool: it adds one when it finds all of them busy, and keeps it."""
    log: int
    """Lines of standard error, without those about a change whose caller had gone."""


def held(server: ServerProcess) -> Held:
    """Look at all processes of a server."""
    memory = descriptors = threads = pooled = 0
    for pid in (server.process.pid, *server.worker_pids()):
        of = Path(f"/proc/{pid}")
        told = dict(line.split(":", 1) for line in (of / "status").read_text().splitlines())
        memory += int(told["RssAnon"].split()[0]) * 1024
        names = list(_thread_names(of))
        pooled += names.count(_POOL)
        threads += len(names) - names.count(_POOL)
        descriptors += len(list((of / "fd").iterdir()))
    lines = [one for one in server.log_text().splitlines() if UNANSWERED not in one]
    return Held(memory, descriptors, threads, pooled, len(lines))


def _thread_names(process: Path) -> Iterator[str]:
    for thread in (process / "task").iterdir():
        with suppress(OSError):  # it has ended since
            yield (thread / "comm").read_text().strip()


class Window(NamedTuple):
    """The median of some samples."""

    memory: float
    descriptors: float
    threads: float
    pooled: float
    log: int
    """At their end."""


def window(samples: Sequence[Held]) -> Window:
    """Sum up some samples."""
    memory, descriptors, threads, pooled = (
        median(one[place] for one in samples) for place in range(4)
    )
    return Window(memory, descriptors, threads, pooled, samples[-1].log)


@dataclass
class Client:
    """One client with its own keys, and calls of all kinds."""

    caller: Caller
    project_id: str
    drawn: random.Random
    keys: list[tuple[str, str]] = field(default_factory=list)
    """Access key and secret key."""
    made: Counter[str] = field(default_factory=Counter)
    """How calls ended, by status; `CANCELLED` are those that it cancelled."""

    def once(self) -> None:
        """Make one call, and cancel every tenth."""
        make = self.drawn.choices(_CALLS, _WEIGHTS)[0] if self.keys else _create
        request, keep = make(self)
        name = request.DESCRIPTOR.name.removesuffix("Request")
        method = METHODS[name]
        call: Any = self.caller.channel.unary_unary(
            f"/{method.containing_service.full_name}/{name}"
        )
        future = call.future(
            request.SerializeToString(), metadata=self.caller.metadata, timeout=CALL_SECONDS
        )
        if self.drawn.random() < CANCELLED:
            time.sleep(self.drawn.uniform(0, CANCELLED_AFTER))
            future.cancel()
        try:
            keep(future.result())
        except grpc.FutureCancelledError:
            self.made["CANCELLED"] += 1
        except grpc.RpcError as error:
            self.made[error.code().name] += 1
        else:
            self.made["OK"] += 1

    def some(self) -> tuple[str, str]:
        """One of its keys."""
        return self.drawn.choice(self.keys)


Made = tuple[Message, Callable[[bytes], object]]


def _nothing(_: bytes) -> None:
    """Keep nothing of an answer."""


def _verify(client: Client) -> Made:
    return pb.VerifyRequest(secret_key=client.some()[1], permissions=["orders:read"]), _nothing


def _batch(client: Client) -> Made:
    requests = [pb.VerifyRequest(secret_key=client.some()[1]) for _ in range(20)]
    return pb.BatchVerifyRequest(requests=requests), _nothing


def _guess(client: Client) -> Made:
    return pb.VerifyRequest(secret_key=client.some()[1][::-1]), _nothing


def _create(client: Client) -> Made:
    def keep(body: bytes) -> None:
        answer = pb.CreateKeyResponse.FromString(body)
        client.keys.append((answer.key.access_key, answer.secret_key))

    return key_request(client.project_id, "RESTRICTED"), keep


def _revoke(client: Client) -> Made:
    access_key, _ = client.keys[0] if len(client.keys) < KEYS else client.keys.pop(0)
    if len(client.keys) < KEYS:
        return pb.GetKeyRequest(access_key=access_key), _nothing
    return pb.RevokeKeyRequest(access_key=access_key), _nothing


def _update(client: Client) -> Made:
    return update_request(client.some()[0], purpose=str(client.drawn.random())), _nothing


def _list(client: Client) -> Made:
    return pb.ListKeysRequest(project_id=client.project_id, page_size=20), _nothing


def _absent(client: Client) -> Made:
    return project_service_pb2.GetProjectRequest(project_id=client.project_id[::-1]), _nothing


def _usage(client: Client) -> Made:
    return usage_service_pb2.GetUsageRequest(project_id=client.project_id, page_size=20), _nothing


def _events(client: Client) -> Made:
    return audit_service_pb2.ListEventsRequest(project_id=client.project_id, page_size=5), _nothing


_MIX: Final = {
    _verify: 50,
    _batch: 5,
    _guess: 5,
    _create: 6,
    _revoke: 6,
    _update: 6,
    _list: 4,
    _absent: 4,
    _usage: 2,
    _events: 2,
}
_CALLS: Final = list(_MIX)
_WEIGHTS: Final = list(_MIX.values())


def watch_now_and_then(caller: Caller, project_id: str, stop: threading.Event) -> None:
    """Open a stream, read from it for a while, abandon it, and open the next."""
    path = "/keyauthority.v1.KeyAuthorityService/WatchChanges"
    opened: Any = caller.channel.unary_stream(path)
    body = pb.WatchChangesRequest(project_id=project_id, snapshot=True).SerializeToString()
    while not stop.is_set():
        stream = opened(body, metadata=caller.metadata, timeout=CALL_SECONDS)
        for _ in range(3):
            next(stream)
        stream.cancel()
        stop.wait(0.2)


def fill(server: ServerProcess, keys: int) -> None:
    """Import so many keys, and have each worker verify them all.

    Bounded caches are full then, and do not count as growth.
    """
    with ExitStack() as stack:
        channels = [
            stack.enter_context(grpc.insecure_channel(server.address, _APART))
            for _ in range(FILLERS)
        ]
        callers = [Caller(channel, server.metadata) for channel in channels]
        project_id, tokens_of = new_project(callers[0]), import_set()
        for _ in range(0, keys, FILLED_AT_ONCE):
            tokens = [new_token() for _ in range(FILLED_AT_ONCE)]
            imported(callers[0], tokens_of, [item(one, project_id) for one in tokens])
            asked = [pb.VerifyRequest(secret_key=one) for one in tokens]
            batch = pb.BatchVerifyRequest(requests=asked)
            for caller in callers:  # which worker has whose connection is chance
                assert all(one.valid for one in caller.ask(batch).responses)


def soak(server: ServerProcess, seconds: float) -> tuple[list[Held], Counter[str]]:
    """Load a server for so long; return samples of its resources, and the status of all calls."""
    stop = threading.Event()
    made: Counter[str] = Counter()

    def client(number: int) -> None:
        with grpc.insecure_channel(server.address, _APART) as channel:
            caller = Caller(channel, server.metadata)
            one = Client(caller, new_project(caller), random.Random(number))
            while not stop.wait(one.drawn.uniform(0, 2 * PAUSE_SECONDS)):
                one.once()
        made.update(one.made)

    def watcher() -> None:
        with grpc.insecure_channel(server.address, _APART) as channel:
            caller = Caller(channel, server.metadata)
            project_id = new_project(caller)
            new_key(caller, project_id)
            watch_now_and_then(caller, project_id, stop)

    with ThreadPoolExecutor(CLIENTS + 1) as pool:
        running = [pool.submit(client, number) for number in range(CLIENTS)]
        running.append(pool.submit(watcher))
        samples = []
        try:
            for _ in range(SAMPLES):
                stop.wait(seconds / SAMPLES)
                samples.append(held(server))
        finally:
            stop.set()
        assert [None] * len(running) == [one.result() for one in running]
    return samples, made


_APART: Final = (("grpc.use_local_subchannel_pool", 1),)
