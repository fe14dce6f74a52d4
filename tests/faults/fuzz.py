"""Sends hostile messages over a live connection, and checks that the server withstands them.

`python -m tests.faults.fuzz --messages 1000000` starts a server for each transport and prints
a report. Exits 1 if a fault was found.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority.v1 import project_service_pb2
from tests.conftest import TRANSPORTS
from tests.faults.hostile_inputs import Source
from tests.service.callers import (
    ABSENT_KEY,
    DETAILS,
    METHODS,
    Caller,
    new_key,
    new_operator,
    new_project,
)
from tests.service.callers import verdict as verdict_of
from tests.service.processes import ServerProcess, start

SEED: Final = 20_240_229
LANES: Final = 32  # calls at once
CALL_SECONDS: Final = 60
STREAM_SHARE: Final = 0.02  # of the calls: a stream that has nothing to say costs half a second
FAULTS_TOLD: Final = 10
SAMPLES: Final = 10  # looks at the memory, one of them before
PAGE_BYTES: Final = 4096
RENEWED: Final = 1_000  # messages: some tens of them revoke every key they can
SECRET_LENGTH: Final = 78

LEAKS: Final = (
    *("traceback", "exception", "decode", "<class", "<object", "errno", "nonetype"),
    *("sqlite", "psycopg", "select ", "insert into", "keyauthority_server", "site-packages"),
    *(".py", " /", "/tmp", "/proc"),  # noqa: S108 - looked for, not used
)
"""Texts that no error may contain, in lower case."""

CODES: Final = frozenset(
    {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNAUTHENTICATED", "PERMISSION_DENIED", "ABORTED"}
    | {"ALREADY_EXISTS", "FAILED_PRECONDITION", "RESOURCE_EXHAUSTED"}
)
"""Codes that a healthy server may answer with."""

Body = Callable[[], tuple[str, bytes]]
"""Draws a method and a request."""


@dataclass
class Report:
    """The result of a run."""

    transport: str
    sent: int = 0
    seconds: float = 0.0
    codes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)
    """Bytes that the workers held, in equal distances, the first before the run."""
    log_bytes: int = 0

    def __str__(self) -> str:
        codes = ", ".join(f"{code} {count}" for code, count in self.codes.most_common())
        memory = " ".join(f"{size >> 20}" for size in self.memory)
        rate = self.sent / (self.seconds or 1)
        lines = [
            f"{self.transport}: {self.sent} messages in {self.seconds:.0f} s, {rate:.0f}/s",
            f"  codes: {codes}",
            f"  MiB held by the workers: {memory}",
            f"  bytes of log: {self.log_bytes}",
            f"  faults: {len(self.faults)}",
        ]
        return "\n".join([*lines, *(f"    {fault}" for fault in self.faults[:FAULTS_TOLD])])


def fault_in(code: str, told: str, secrets: Sequence[str] = ()) -> str | None:
    """Return the fault in the status of a call, or an empty text."""
    if code not in CODES:
        return f"the call ended as {code}"
    lower = told.lower()
    for leak in LEAKS:
        if leak in lower:
            return f"the caller is told of {leak!r}"
    if any(secret in told for secret in secrets):
        return "the caller is told a secret"
    return None


def memory_of(server: ServerProcess) -> int:
    """The bytes that the workers hold."""
    pages = 0
    for pid in server.worker_pids():
        pages += int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    return pages * PAGE_BYTES


class Target:
    """The fixtures of a run: a project with keys, an operator, and a key that must stay valid."""

    def __init__(self, root: Caller) -> None:
        self.root = root
        self.operator = new_operator(root, "*:*", "operators:*")
        self.project = new_project(self.operator)
        self.tokens: list[str] = []
        self.names: list[str] = []
        self.known: dict[str, Sequence[str]] = {
            "project_id": [self.project],
            "operator_projects": [self.project],
            "access_key": self.names,
            "secret_key": self.tokens,
            "permissions": ["orders:read", "a.*:write", "*:*"],
            "allowed_ips": ["10.0.0.0/8", "::1"],
            "allowed_referrers": ["https://a.example/*"],
            "client_ip": ["10.0.0.1"],
            "request_id": ["", "11111111-1111-4111-8111-111111111111"],
            "batch_id": ["22222222-2222-4222-8222-222222222222"],
            "purpose": ["nightly export"],
            "label": ["a"],
            "package": ["example.app"],
            "service": ["maps.example"],
            "ios_bundle_ids": ["example.app"],
            "sha1": ["0" * 40],
            "paths": ["purpose", "labels", "permissions", "restrictions", "expire_time"],
        }
        self.honest = new_key(root, new_project(root)).secret_key
        self.renew()

    def renew(self) -> None:
        """Put new keys in the place of those that the run has revoked meanwhile."""
        kinds = ("SECRET", "RESTRICTED", "PUBLISHABLE")
        made = [new_key(self.operator, self.project, kind) for kind in kinds]
        self.tokens[:] = [one.secret_key or one.key.publishable_key for one in made]
        self.names[:] = [*(one.key.access_key for one in made), ABSENT_KEY]

    @property
    def secrets(self) -> list[str]:
        """The secret parts of the present tokens."""
        return [token[29:72] for token in self.tokens if len(token) == SECRET_LENGTH]


def bodies(source: Source, target: Target) -> Body:
    """Return the strategy of calls: noise, structure, damage and tokens in equal parts."""
    streams = [name for name, method in METHODS.items() if method.server_streaming]
    calls = [name for name in METHODS if name not in streams]

    def with_token() -> tuple[str, bytes]:
        token = source.token(source.random.choice(target.tokens))
        if source.random.random() < 0.6:
            return "Verify", pb.VerifyRequest(secret_key=token).SerializeToString()
        if source.random.random() < 0.3:
            return "LookupKey", pb.LookupKeyRequest(secret_key=token).SerializeToString()
        if source.random.random() < 0.6:
            return "GetProjectId", pb.GetProjectIdRequest(secret_key=token).SerializeToString()
        return "RevokeKey", pb.RevokeKeyRequest(secret_key=token).SerializeToString()

    def draw() -> tuple[str, bytes]:
        way = source.random.randrange(4)
        if way == 0:
            return with_token()
        method = source.random.choice(calls)
        if streams and source.random.random() < STREAM_SHARE:
            method = source.random.choice(streams)
        if way == 1:
            return method, source.noise()
        body = source.structured(method)
        return method, body if way == 2 else source.damaged(body)

    return draw


async def end_of(channel: grpc.aio.Channel, metadata: Any, name: str, body: bytes) -> Any:
    """Make a call; return its code and all visible details of the failure."""
    method = METHODS[name]
    path = f"/{method.containing_service.full_name}/{name}"
    try:
        if method.server_streaming:
            opened: Any = channel.unary_stream(path)
            stream = opened(body, metadata=metadata, timeout=CALL_SECONDS)
            try:
                await stream.read()
            finally:
                stream.cancel()
        else:
            unary: Any = channel.unary_unary(path)
            await unary(body, metadata=metadata, timeout=CALL_SECONDS)
    except grpc.aio.AioRpcError as failure:
        status = dict(failure.trailing_metadata() or ()).get(DETAILS, b"")
        more = status.decode("latin-1") if isinstance(status, bytes) else status
        return failure.code().name, f"{failure.details()} {more}"
    return "OK", ""


async def send(server: ServerProcess, target: Target, report: Report, count: int) -> None:
    """Send so many messages, several at once; add the results to the report."""
    draw = bodies(Source(f"{SEED} {report.transport} {count}", target.known), target)
    left = iter(range(count))
    every = max(count // (SAMPLES - 1), 1)

    async def lane(channel: grpc.aio.Channel) -> None:
        for number in left:
            name, body = draw()
            code, told = await end_of(channel, target.operator.metadata, name, body)
            report.codes[code] += 1
            fault = fault_in(code, told, target.secrets)
            if fault is not None:
                report.faults.append(f"{name} {body[:500].hex()}: {fault}: {told[:300]!r}")
            if number % RENEWED == RENEWED - 1:
                await asyncio.to_thread(target.renew)
            if number % every == every - 1:
                report.memory.append(memory_of(server))

    async with grpc.aio.insecure_channel(server.address) as channel:
        await asyncio.gather(*(lane(channel) for _ in range(LANES)))


def run(server: ServerProcess, root: Caller, transport: str, count: int) -> Report:
    """Send so many messages to a server, and look at it afterwards."""
    target, workers = Target(root), server.worker_pids()
    report = Report(transport, count, memory=[memory_of(server)])
    logged = len(server.log_text())
    began = time.monotonic()
    asyncio.run(send(server, target, report, count))
    report.seconds = time.monotonic() - began
    report.memory.append(memory_of(server))
    log = server.log_text()[logged:]
    report.log_bytes = len(log)
    report.faults += list(_aftermath(server, target, workers, log))
    return report


def _aftermath(
    server: ServerProcess, target: Target, workers: list[int], log: str
) -> Iterator[str]:
    if workers != server.worker_pids():
        yield "a worker has ended"
    if "Traceback" in log or "internal_error" in log:
        yield f"the log tells of a fault: {log[-2_000:]}"
    if (was := verdict_of(target.root, target.honest)) != "VALID":
        yield f"a key that nobody touched is {was}"
    if not target.root.ask(project_service_pb2.ListProjectsRequest(page_size=1)).projects:
        yield "the projects are gone"


def main() -> int:
    """Run against servers of its own; print the reports."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--messages", type=int, default=20_000, help="for each transport")
    options.add_argument("--transport", choices=TRANSPORTS, action="append")
    chosen = options.parse_args()
    failed = False
    for transport in chosen.transport or TRANSPORTS:
        with tempfile.TemporaryDirectory() as folder:
            server = start(Path(folder) / "data", "--transport", transport)
            try:
                with grpc.insecure_channel(server.address) as channel:
                    root = Caller(channel, server.metadata)
                    report = run(server, root, transport, chosen.messages)
            finally:
                server.stop()
        sys.stdout.write(f"{report}\n")
        sys.stdout.flush()
        failed = failed or bool(report.faults)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
