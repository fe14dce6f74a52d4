"""What a million keys cost: Verify, ListKeys, start-up, file and memory, beside a thousand.

Run by `make bench-scale`. The keys are written through the store, in large transactions: each has
its entry in the log. Verify is timed from the request's bytes to the answer's, in this process, the
two stores in turn, so that both see the same machine; the transport would only dilute the ratio.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

from keyauthority.clock import SystemClock
from keyauthority.model import ChangeType, Key, KeyFilter, KeyKind, KeyMode
from keyauthority.token import make, new_access_key, new_secret
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority_server import bootstrap, config, rpc
from keyauthority_server.audit import sealer
from keyauthority_server.config import Config
from keyauthority_server.peppers import Keyring
from keyauthority_server.store.base import Transaction
from keyauthority_server.store.sqlite import SqliteStore, open_store
from keyauthority_server.store.values import Entry, Held, Mutation
from keyauthority_server.wire import Answer, Call, Streaming

BATCH: Final = 500  # keys in one transaction while filling: a larger one may take seconds to commit
VERIFIED: Final = 50_000  # tokens kept for Verify, of all that are made
CALLS: Final = 4_000  # in each of the rounds
ROUNDS: Final = 5
PAGE: Final = 100


class Side(NamedTuple):
    """One store, filled and served."""

    settings: Config
    bodies: list[bytes]
    """Requests of Verify, for keys from all over the store."""
    call: Call
    verify: Answer
    store: SqliteStore
    project_id: str
    middle: int


def main() -> None:
    """Fill two stores, measure both in turn, and print the ratios."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--few", type=int, default=1_000)
    options.add_argument("--many", type=int, default=1_000_000)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_measure(Path(folder), (given.few, given.many)))


async def _measure(folder: Path, numbers: tuple[int, int]) -> None:
    figures: dict[str, list[float]] = {}
    async with AsyncExitStack() as stack:
        for number in numbers:
            (folder / str(number)).mkdir(mode=0o700)
        sides = [await _side(folder / str(number), number, stack) for number in numbers]
        for side in sides:
            files = side.settings.data.iterdir()
            figures.setdefault("files, MB", []).append(sum(f.stat().st_size for f in files) / 1e6)
        thousand: list[list[float]] = [[], []]
        anywhere: list[list[float]] = [[], []]
        for _ in range(ROUNDS):
            for place, side in enumerate(sides):
                thousand[place] += await _verify(side, side.bodies[:1_000])
                anywhere[place] += await _verify(side, side.bodies)
        figures["Verify, the same 1,000 keys, p50 us"] = [_p50(times) * 1e6 for times in thousand]
        figures["Verify, keys from all over, p50 us"] = [_p50(times) * 1e6 for times in anywhere]
        for side in sides:
            figures.setdefault("first page, p50 ms", []).append(await _page(side, 0))
            figures.setdefault("page in the middle, p50 ms", []).append(
                await _page(side, side.middle)
            )
    figures["start, s"] = [_p50([_start(side.settings) for _ in range(3)]) for side in sides]
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{'keys':36}{numbers[0]:>12,}{numbers[1]:>12,}{'ratio':>8}")
    for name, (few, many) in figures.items():
        print(f"{name:36}{few:12.2f}{many:12.2f}{many / few:8.2f}")
    print(f"memory of this process, both stores open, at most: {memory:.0f} MB")


async def _side(data: Path, number: int, stack: AsyncExitStack) -> Side:
    settings = config.load({"data": str(data)}, {})
    await bootstrap.prepare(settings)
    project_id, bodies, middle = await _fill(settings, number)
    authority = await stack.enter_async_context(
        bootstrap.open_authority(settings, checkpoints=True)
    )
    operator_key = (data / bootstrap.OPERATOR_KEY).read_text().strip()
    verify = rpc.services(authority, None)["keyauthority.v1.KeyAuthorityService"]["Verify"]
    assert not isinstance(verify, Streaming)
    call = Call((("x-auth-token", operator_key),), "ipv4:127.0.0.1:1")
    store = open_store(settings.store.sqlite_path, _no_seal, checkpoints=False)
    stack.push_async_callback(store.close)
    return Side(settings, bodies, call, verify, store, project_id, middle)


async def _fill(settings: Config, number: int) -> tuple[str, list[bytes], int]:
    peppers = Keyring.load(settings.data / bootstrap.PEPPER)
    audit_key = Keyring.load(settings.data / bootstrap.AUDIT_KEY)
    store = open_store(settings.store.sqlite_path, sealer(audit_key))
    (project,), _ = await store.list_projects(None, 0, 1)
    every = max(number // VERIFIED, 1)
    bodies: list[bytes] = []

    def work(made: int, transaction: Transaction) -> None:
        now = SystemClock().now()
        for place in range(min(BATCH, number - made)):
            name = new_access_key()
            token = make(KeyKind.RESTRICTED, KeyMode.LIVE, name, new_secret())
            if (made + place) % every == 0:
                body = pb.VerifyRequest(secret_key=token, permissions=["orders:read"])
                bodies.append(body.SerializeToString())
            key = Key(
                access_key=name,
                project_id=project.project_id,
                mode=KeyMode.LIVE,
                kind=KeyKind.RESTRICTED,
                purpose="nightly export",
                permissions=("orders:read", "billing.*:read"),
                labels={"team": "shop"},
                create_time=now,
                update_time=now,
                created_by="KA000000000000000000",
                created_from="127.0.0.1",
                revision=0,
            )
            held = Held(key, peppers.digest(token.encode()), peppers.current, name)
            transaction.apply(
                Mutation(type=ChangeType.KEY_CREATED, time=now, actor="", peer="", keys=(held,))
            )

    for made in range(0, number, BATCH):
        await store.write(partial(work, made))
    await store.close()
    random.Random(1).shuffle(bodies)  # noqa: S311 - the order in which keys are verified
    return project.project_id, bodies, number // 2


async def _verify(side: Side, bodies: list[bytes]) -> list[float]:
    times, answer = [], b""
    for body in random.choices(bodies, k=CALLS):  # noqa: S311 - as above
        started = time.perf_counter()
        answer = await side.verify(body, side.call)
        times.append(time.perf_counter() - started)
    if not pb.VerifyResponse.FromString(answer).valid:
        sys.exit("a key that was made is not valid")
    return times


async def _page(side: Side, after: int) -> float:
    now = SystemClock().now()
    times = []
    for _ in range(20):
        started = time.perf_counter()
        await side.store.list_keys(side.project_id, None, KeyFilter(), now, after, PAGE)
        times.append(time.perf_counter() - started)
    return _p50(times) * 1e3


def _start(settings: Config) -> float:
    """Seconds from exec to the ready line."""
    command = [sys.executable, "-m", "keyauthority_server", "serve", "--log-level", "error"]
    command += ["--data", str(settings.data), "--listen", "127.0.0.1:0"]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        server.stdout.readline()
        seconds = time.perf_counter() - started
        server.terminate()
    return seconds


def _p50(times: list[float]) -> float:
    return statistics.median(times)


def _no_seal(_: Entry) -> NoReturn:
    raise AssertionError("this store is only read")


if __name__ == "__main__":
    main()
