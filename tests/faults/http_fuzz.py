"""Requests of HTTP that no client would send, by raw bytes over live connections.

`python -m tests.faults.http_fuzz --requests 200000` starts a server and prints the report. Exits 1
if a fault was found.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.faults.fuzz import LEAKS, memory_of
from tests.faults.hostile_inputs import TEXTS, Source
from tests.service.callers import METHODS
from tests.service.http_channel import as_json, envelope
from tests.service.processes import ServerProcess, start

SEED: Final = 17
CONNECTIONS: Final = 24  # at once
PIECES_MAX: Final = 4  # in which a request is sent, with a turn of the loop between
WAIT_SECONDS: Final = 30  # for an answer, or the end of the connection
STATUSES: Final = frozenset({100, 200, 400, 401, 403, 404, 405, 409, 413, 415, 429, 431, 501, 504})
"""Answers that a server without a fault may give."""
SAMPLES: Final = 10
TYPES: Final = (
    *(("application/json",) * 12),
    "application/json; charset=utf-8",
    *("application/proto", "application/connect+json", "application/connect+proto"),
    *("application/grpc", "text/plain", "", "application/json, application/proto"),
)
METHODS_OF_HTTP: Final = (*("POST",) * 40, "GET", "HEAD", "OPTIONS", "PUT", "CONNECT", "BREW", "")
VERSIONS: Final = (*("HTTP/1.1",) * 40, "HTTP/1.0", "HTTP/2.0", "http/1.1", "HTTP/1.1 x", "")
PATHS: Final = (
    *(f"/{m.containing_service.full_name}/{m.name}" for m in METHODS.values()),
    *("/healthz", "/openapi.json", "/", "*", "//", "/%00", "/../healthz", "http://a/healthz"),
)
FRAMING: Final = (
    *("content-length: 0", "content-length: -1", "content-length: 1e3", "content-length: 99999999"),
    *("transfer-encoding: chunked", "transfer-encoding: xchunked", "transfer-encoding:\tchunked"),
    *("transfer-encoding: chunked, chunked", "content-length : 5", "Content-Length: 3, 3"),
)
HEADERS: Final = (
    *("expect: 100-continue", "expect: x", "connection: close", "connection: keep-alive"),
    *(
        "connection: upgrade",
        "upgrade: h2c",
        "upgrade: websocket",
        "host: b",
        "host:",
        "te: trailers",
    ),
    *("connect-protocol-version: 1", "connect-protocol-version: 2", "connect-timeout-ms: 1"),
    *("connect-timeout-ms: 99999999999", "content-encoding: gzip", "content-encoding: br"),
    *("connect-content-encoding: gzip", "x-auth-token: x", "authorization: Basic x"),
    *("x-forwarded-for: 203.0.113.7", "accept-encoding: gzip", "cookie: " + "c" * 3_000),
    *("x: " + "y" * 9_000, " folded", "x\0y: z", "x: \0", ": x", "x", "\u00e9: \u00e9"),
)


@dataclass
class HttpReport:
    """The outcome of a run."""

    sent: int = 0
    seconds: float = 0.0
    statuses: Counter[int] = field(default_factory=Counter)
    unanswered: int = 0
    """Connections that closed without a response: of cut or endless requests."""
    faults: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    """Bytes that the workers held, in equal distances, the first before the run."""

    def __str__(self) -> str:
        memory = " ".join(f"{size >> 20}" for size in self.memory)
        rate = self.sent / (self.seconds or 1)
        return (
            f"{self.sent} requests in {self.seconds:.0f} s, {rate:.0f}/s; statuses "
            f"{dict(sorted(self.statuses.items()))}, {self.unanswered} without an answer; MiB held "
            f"by the workers: {memory}; faults: {len(self.faults)} {self.faults[:5]}"
        )


class Requests:
    """Draws requests, the same ones for the same seed."""

    def __init__(self, seed: object, operator_key: str) -> None:
        self.random = random.Random(f"{seed}")
        self._source = Source(seed, {})
        self._key = operator_key

    def draw(self) -> bytes:
        """Return the bytes of one request: good, or wrong in one way or in many."""
        if self._one_in(25):
            return self.random.randbytes(self.random.randrange(300))
        body = self._body()
        head = self._head(len(body))
        if self._one_in(8):
            body = b"".join(self._chunks(body))
        request = head + body
        if self._one_in(10):
            place = self.random.randrange(len(request))
            request = request[:place] + self.random.randbytes(3) + request[place + 1 :]
        if self._one_in(15):
            request = request[: self.random.randrange(len(request))]
        if self._one_in(15):
            request += request
        return request

    def _one_in(self, number: int) -> bool:
        return not self.random.randrange(number)

    def _head(self, length: int) -> bytes:
        choice = self.random.choice
        lines = [f"{choice(METHODS_OF_HTTP)} {choice(PATHS)} {choice(VERSIONS)}", "host: a"]
        if not self._one_in(5):
            lines.append(f"authorization: Bearer {self._key}")
        lines.append(f"content-type: {choice(TYPES)}")
        lines.append(choice(FRAMING) if self._one_in(10) else f"content-length: {length}")
        if self._one_in(5):
            lines += self.random.choices(HEADERS, k=self.random.randrange(1, 4))
        end = "\n" if self._one_in(40) else "\r\n"
        return end.join([*lines, "", ""]).encode()

    def _body(self) -> bytes:
        name = self.random.choice(list(METHODS))
        way = self.random.randrange(8)
        if way == 0:
            return self._source.noise()
        body = self._source.structured(name)
        if way == 1:
            return body
        text = as_json(METHODS[name], body)
        if way == 2:
            return gzip.compress(text, mtime=0)  # the time would make each run another
        if way == 3:
            return envelope(text, self.random.choice((0, 0, 0, 1, 2, 255)))
        if way == 4:
            return self._source.damaged(text)
        if way == 5:
            value = self.random.choice(TEXTS)
            return json.dumps({self.random.choice(TEXTS): value, "secretKey": value}).encode()
        return text

    def _chunks(self, body: bytes) -> Iterator[bytes]:
        while body:
            size = self.random.randrange(1, len(body) + 1)
            told = size if not self._one_in(20) else self.random.choice((0, size + 5, 2**40))
            yield b"%x%s\r\n%s\r\n" % (told, self.random.choice((b"", b";a=b")), body[:size])
            body = body[size:]
        yield self.random.choice((b"0\r\n\r\n", b"0\r\nx: y\r\n\r\n", b"0\r\n", b""))


async def run(server: ServerProcess, count: int) -> HttpReport:
    """Send so many requests, and look at the server afterwards."""
    report = HttpReport(memory=[memory_of(server)])
    workers, logged = server.worker_pids(), len(server.log_text())
    requests, left = Requests(f"{SEED} {count}", server.operator_key), iter(range(count))
    every, began = max(count // SAMPLES, 1), time.monotonic()

    async def lane() -> None:
        for number in left:
            request = requests.draw()
            await exchange(server, requests.random, request, report)
            report.sent += 1
            if number % every == every - 1:
                report.memory.append(memory_of(server))

    await asyncio.gather(*(lane() for _ in range(CONNECTIONS)))
    report.seconds = time.monotonic() - began
    log = server.log_text()[logged:]
    if workers != server.worker_pids():
        report.faults.append("a worker has ended")
    if "Traceback" in log or "internal_error" in log:
        report.faults.append(f"the log has a fault: {log[-2_000:]}")
    good = b"GET /healthz HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
    after = HttpReport()
    await exchange(server, requests.random, good, after)
    if after.statuses != {200: 1}:
        report.faults.append(f"the server answers no longer: {after}")
    return report


async def exchange(
    server: ServerProcess, draw: random.Random, request: bytes, report: HttpReport
) -> None:
    """Send a request in pieces on a connection of its own, and judge the answers."""
    whole = request
    host, _, port = server.http.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        for _ in range(draw.randrange(PIECES_MAX)):
            place = draw.randrange(len(request) + 1)
            writer.write(request[:place])
            await asyncio.sleep(0)
            request = request[place:]
        writer.write(request)
        writer.write_eof()
        async with asyncio.timeout(WAIT_SECONDS):
            answer = await reader.read()
    except TimeoutError:
        if b"WatchChanges" in whole:  # a good stream has no end
            return
        report.faults.append(f"no answer and no end: {request[:300]!r}")
        return
    except OSError:  # cut
        answer = b""
    finally:
        writer.close()
    judge(request, answer, report)


def judge(request: bytes, answer: bytes, report: HttpReport) -> None:
    """Count the responses, and note those that a sound server does not give."""
    statuses = [int(one[:3]) for one in answer.split(b"HTTP/1.1 ")[1:]]
    report.statuses.update(statuses)
    report.unanswered += not statuses
    for status in statuses:
        if status not in STATUSES:
            report.faults.append(f"{status} for {request[:300]!r}")
    if b"/openapi.json" in request:
        return
    lower = answer.lower().decode(errors="replace")
    found = [leak for leak in LEAKS if leak in lower.replace(" /", "")]
    if found:
        report.faults.append(f"the answer has {found} for {request[:300]!r}")


def main() -> int:
    """Run against a server of its own; print the report."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--requests", type=int, default=20_000)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        server = start(Path(folder) / "data", "--http", "127.0.0.1:0")
        try:
            report = asyncio.run(run(server, chosen.requests))
        finally:
            server.stop()
    sys.stdout.write(f"{report}\n")
    return 1 if report.faults else 0


if __name__ == "__main__":
    sys.exit(main())
