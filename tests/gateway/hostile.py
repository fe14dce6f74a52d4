"""Sends hostile requests to both ends of a gateway, and watches its answers and its memory."""

from __future__ import annotations

import asyncio
import os
import random
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import grpc
import grpc.aio

from keyauthority.gateway.identity import NAMES
from keyauthority.gateway.v1 import check_pb2 as pb
from tests.gateway.envoy_client import CHECK, request
from tests.gateway.processes import Gateway

LANES: Final = 16  # connections at once
PIPELINED: Final = 40  # well-framed requests on one connection
ILL_FRAMED: Final = 0.02  # of the connections: one hostile request, then the end
WAIT_SECONDS: Final = 30
PAGE: Final = os.sysconf("SC_PAGE_SIZE")
LEAKS: Final = re.compile(rb"Traceback|Exception|[a-z]Error\b|\.py\b|<class|[Ee]rrno|0x[0-9a-f]{6}")

_STATUS: Final = re.compile(rb"HTTP/1\.1 (\d{3}) ")
_WORDS: Final = (
    "",
    "sk_live_",
    "Bearer ",
    "Basic ",
    "Basic Og==",
    "x" * 300,
    "a,b",
    ",",
    "\t",
    "é",
)
_NAMES: Final = ("authorization", "x-api-key", "x-auth-token", "x_api_key", "referer", *NAMES)
_METHODS: Final = ("GET", "HEAD", "POST", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND")
_QUERIES: Final = (
    *("", "?", "?permission=orders:read", "?permision=a:b", "?mode=live&mode=live", "?%00=1"),
    *("?" + "a" * 9_000, "?permission=%ff", "?cost=-1", "?a=1;b=2", "?permission=a:b&" * 50),
)
_PATHS: Final = (
    "/auth",
    "/auth",
    "/auth",
    "/auth/",
    "//auth",
    "/AUTH",
    "/a%75th",
    "/x",
    "/healthz/",
)


@dataclass
class Found:
    """The answers to a run."""

    answers: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    """Bytes of memory of the gateway, over the time of the run."""

    def saw(self, sent: object, answer: bytes) -> None:
        """Judge an answer: nothing hostile is admitted, and no inner text is shown."""
        if LEAKS.search(answer):
            self.faults.append(f"{sent!r:.300}: {answer!r:.300}")


def resident(pid: int) -> int:
    """Return the memory of a process, in bytes."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE


async def attack(gateway: Gateway, requests: int, seed: int) -> Found:
    """Send so many requests, half of them to each end."""
    found, rng = Found(), random.Random(seed)
    for _ in range(10):
        await attack_http(gateway.http, requests // 20, rng, found)
        await _grpc(gateway, requests // 20, rng, found)
        found.memory.append(resident(gateway.process.pid))
    return found


async def attack_http(address: str, requests: int, rng: random.Random, found: Found) -> None:
    """Send so many requests to an HTTP end."""
    left = requests

    async def lane() -> None:
        nonlocal left
        while left > 0:
            if rng.random() < ILL_FRAMED:
                left -= 1
                await _exchange(address, ill_framed(rng), 0, found)
            else:
                left -= PIPELINED
                sent = b"".join(well_framed(rng) for _ in range(PIPELINED))
                await _exchange(address, sent, PIPELINED, found)

    await asyncio.gather(*(lane() for _ in range(LANES)))


async def _exchange(address: str, sent: bytes, answers: int, found: Found) -> None:
    """Send bytes on a connection of their own, and read to its end."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            writer.write(sent)
            if not answers:
                writer.write_eof()
            got = await _read(reader, answers)
    except (ConnectionError, TimeoutError) as failed:
        if answers or isinstance(failed, TimeoutError):
            found.faults.append(f"{sent!r:.300}: {failed!r}")
        return
    finally:
        writer.close()
    statuses = _STATUS.findall(got)
    found.answers.update(f"http {status.decode()}" for status in statuses)
    found.answers["http requests"] += max(answers, 1)
    if b"200" in statuses or (answers and len(statuses) != answers):
        found.faults.append(f"{len(statuses)} answers: {sent!r:.300}: {got!r:.300}")
    found.saw(sent, got)


async def _read(reader: asyncio.StreamReader, answers: int) -> bytes:
    """Read so many answers, or to the end of the connection."""
    got = b""
    while not answers or len(_STATUS.findall(got)) < answers or not got.endswith((b"}", b"\n")):
        data = await reader.read(65_536)
        if not data:
            break
        got += data
    return got


def well_framed(rng: random.Random) -> bytes:
    """Return a request that is one request to every parser, and must be denied."""
    lines = [
        f"{rng.choice(_METHODS)} {rng.choice(_PATHS)}{rng.choice(_QUERIES)} HTTP/1.1",
        "host: x",
    ]
    number = rng.choice((0, 1, 1, 2, 5, 40))
    lines += [f"{rng.choice(_NAMES)}: {rng.choice(_WORDS)}" for _ in range(number)]
    if rng.random() < 0.1:
        lines.append(f"x-{rng.randbytes(40).hex()}: {rng.randbytes(2_000).hex()}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def ill_framed(rng: random.Random) -> bytes:
    """Return a request that parsers disagree on, or none at all."""
    auth = b"GET /auth HTTP/1.1\r\nhost: x\r\n"
    smuggled = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    return rng.choice(
        (
            auth + b"content-length: 6\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\nG",
            auth + b"transfer-encoding: chunked\r\ncontent-length: 4\r\n\r\n1\r\nZ\r\n0\r\n\r\n",
            auth + b"transfer-encoding: xchunked\r\n\r\n" + smuggled,
            auth + b"transfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n",
            auth + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n" + smuggled,
            auth + b"transfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n",
            auth
            + b"transfer-encoding: chunked\r\n\r\n5;"
            + b"x" * 200_000
            + b"\r\nhello\r\n0\r\n\r\n",
            auth + b"transfer-encoding: chunked\r\n\r\n0\r\n" + b"t: v\r\n" * 30_000 + b"\r\n",
            auth + b"content-length: 5\r\ncontent-length: 6\r\n\r\nhello" + smuggled,
            auth + b"content-length: -1\r\n\r\n",
            auth + b"content-length: 18446744073709551616\r\n\r\n" + b"x" * 1_000,
            auth + b"content-length: 1000000\r\n\r\nhello",
            auth + b"x: a\r\n\tfolded\r\n b\r\n\r\n",
            auth + b"x\x00y: 1\r\n\r\n",
            auth + b"x: \x00\r\n\r\n",
            auth + b"x: " + b"a" * 300_000 + b"\r\n\r\n",
            auth + b"".join(b"x%d: y\r\n" % number for number in range(20_000)) + b"\r\n",
            auth + b"upgrade: websocket\r\nconnection: upgrade\r\nsec-websocket-key: x\r\n\r\n",
            auth + b"upgrade: h2c\r\nconnection: upgrade, http2-settings\r\n\r\n",
            auth + b"expect: 100-continue\r\ncontent-length: 5\r\n\r\n",
            b"GET http://x/auth HTTP/1.1\r\nhost: y\r\n\r\n",
            b"CONNECT x:1 HTTP/1.1\r\nhost: x\r\n\r\n",
            b"GET /auth\r\n\r\n",
            b"GET /auth HTTP/9.9\r\n\r\n",
            b"GET " + b"/" * 100_000 + b" HTTP/1.1\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(200),
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(500),
            auth[: rng.randrange(1, len(auth))],
            rng.randbytes(rng.randrange(1, 3_000)),
        )
    )


async def _grpc(gateway: Gateway, requests: int, rng: random.Random, found: Found) -> None:
    async with grpc.aio.insecure_channel(gateway.grpc) as channel:
        check: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(CHECK)
        left = requests

        async def lane() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                body = hostile_check(rng)
                answer = await check(body, timeout=WAIT_SECONDS)
                response = pb.CheckResponse.FromString(answer)
                found.answers[f"grpc {response.denied_response.status.code}"] += 1
                found.answers["grpc requests"] += 1
                if response.WhichOneof("http_response") != "denied_response":
                    found.faults.append(f"{body!r:.300}: admitted")
                found.saw(body, answer)

        await asyncio.gather(*(lane() for _ in range(LANES)))


def hostile_check(rng: random.Random) -> bytes:
    """Return the bytes of a check: random, damaged, or with hostile texts."""
    if rng.random() < 0.2:
        return rng.randbytes(rng.randrange(0, 300))
    headers = {rng.choice(_NAMES): rng.choice(_WORDS) for _ in range(rng.randrange(4))}
    if rng.random() < 0.1:
        headers |= {rng.randbytes(20).hex(): rng.randbytes(rng.choice((1, 5_000))).hex()}
    extensions = dict(_extensions(rng))
    source = rng.choice(("192.0.2.7", "", "x", "::1%eth0", "1" * 5_000))
    body = bytearray(request(headers, source=source, **extensions).SerializeToString())
    for _ in range(rng.choice((0, 0, 1, 5))):
        if body:
            body[rng.randrange(len(body))] = rng.randrange(256)
    return bytes(body)


def _extensions(rng: random.Random) -> Iterator[tuple[str, str]]:
    for _ in range(rng.choice((0, 0, 1, 3))):
        name = rng.choice(("permission", "mode", "cost", "permision", "", rng.randbytes(9).hex()))
        yield name, rng.choice(("orders:read", "live", "-1", "", ",", "\n" * 1_000))
