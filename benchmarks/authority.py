"""Servers of Key Authority, each on its core, with keys to ask them about."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.message import Message

import keyauthority
from benchmarks.h2load import Target
from benchmarks.run import Run
from keyauthority.v1 import key_authority_service_pb2 as pb
from tests.service.certificates import server_tls
from tests.service.processes import ServerProcess, children, command, start

SERVICE: Final = "/keyauthority.v1.KeyAuthorityService"
NEEDED: Final = ("orders:read",)
CLIENT_IP: Final = "10.1.2.3"
ALLOWED: Final = keyauthority.Restrictions(allowed_ips=("10.0.0.0/8", "2001:db8::/32"))
ASKED: Final[dict[str, Any]] = {"permissions": NEEDED, "client_ip": CLIENT_IP}
"""The required permissions of a key made with `strict`."""
SHARED: Final = ("pepper", "audit.key", "operator.key")
"""The files that all servers of an authority have."""
_CALL_SECONDS: Final = 30


@dataclass(frozen=True)
class Authority:
    """A server that runs, and a client of it that may do everything."""

    server: ServerProcess
    client: keyauthority.Client
    project_id: str
    ca: Path | None = None
    """The CA certificate of the server, if it uses TLS."""

    def create(self, **fields: Any) -> keyauthority.CreatedKey:
        """Make a key."""
        return self.client.create_key(self.project_id, mode="live", **{"kind": "secret", **fields})

    def strict(self, **fields: Any) -> keyauthority.CreatedKey:
        """Make a key with a permission and addresses."""
        return self.create(kind="restricted", permissions=NEEDED, restrictions=ALLOWED, **fields)

    def target(self, method: str, request: Message) -> Target:
        """Return a call, once it has been made and answered."""
        body = request.SerializeToString()
        path = f"{SERVICE}/{method}"
        header = f"x-auth-token: {self.server.operator_key}"
        address = f"https://{self.server.address}" if self.ca else self.server.address
        return Target(address, path, body, len(self.call(path, body)), (header,))

    def call(self, path: str, body: bytes) -> bytes:
        """Make one call."""
        with self._channel() as channel:
            made: Any = channel.unary_unary(path)
            metadata = (("x-auth-token", self.server.operator_key),)
            answer: bytes = made(body, metadata=metadata, timeout=_CALL_SECONDS)
            return answer

    def verify(self, created: keyauthority.CreatedKey, **asked: Any) -> Target:
        """Return the call that verifies a key, which is valid."""
        request = pb.VerifyRequest(secret_key=created.secret_key.reveal(), **asked)
        target = self.target("Verify", request)
        answer = pb.VerifyResponse.FromString(self.call(target.path, target.body))
        assert answer.valid, answer
        return target

    def verify_batch(self, created: Sequence[keyauthority.CreatedKey], **asked: Any) -> Target:
        """Return the call that verifies keys, which are valid, in one batch."""
        items = [pb.VerifyRequest(secret_key=one.secret_key.reveal(), **asked) for one in created]
        target = self.target("BatchVerify", pb.BatchVerifyRequest(requests=items))
        answer = pb.BatchVerifyResponse.FromString(self.call(target.path, target.body))
        assert all(one.valid for one in answer.responses)
        return target

    def worker_memory(self) -> list[float]:
        """Return the MB that each worker has in memory now."""
        return [resident(pid) for pid in self.server.worker_pids()]

    def cpu_seconds(self) -> float:
        """Return the seconds that the server's processes have worked."""
        return worked(self.server.process.pid)

    def _channel(self) -> grpc.Channel:
        if self.ca is None:
            return grpc.insecure_channel(self.server.address)
        return grpc.secure_channel(
            self.server.address, grpc.ssl_channel_credentials(self.ca.read_bytes())
        )


@contextmanager
def serving(
    run: Run,
    name: str,
    *flags: str,
    cores: Sequence[int] = (),
    tls: bool = False,
    beside: Authority | None = None,
    data_from: Path | None = None,
    before: Sequence[str] = (),
) -> Iterator[Authority]:
    """Run a server, on the servers' core unless `cores` are given.

    `beside` names a server whose authority it shares. With `data_from` it starts with a copy of
    that data folder. `before` is a prefix of its command.
    """
    folder = run.folder / name
    folder.mkdir()
    ca = None
    if tls:
        ca, certificate_flags = _certified(folder)
        flags = (*flags, *certificate_flags)
    data = folder / "data"
    if data_from is not None:
        shutil.copytree(data_from, data)
    if beside is not None:
        data.mkdir(mode=0o700)
        for shared in SHARED:
            shutil.copy2(beside.server.data / shared, data)
    with started(run, data, *flags, cores=cores, before=before) as server:
        client = keyauthority.Client(
            server.address,
            operator_key=server.operator_key,
            tls=keyauthority.Tls(ca=ca) if ca else False,
        )
        with client:
            yield Authority(server, client, client.create_project("bench").project_id, ca)


@contextmanager
def started(
    run: Run, data: Path, *flags: str, cores: Sequence[int] = (), before: Sequence[str] = ()
) -> Iterator[ServerProcess]:
    """Give a server on a data folder, on the servers' core unless others are named."""
    program = (*run.pinned(*cores), *before, *command())
    server = start(data, *flags, "--log-level", "error", program=program)
    try:
        yield server
    finally:
        server.stop()


def rate_limit() -> keyauthority.RateLimit:
    """Return a limit that no load reaches."""
    return keyauthority.RateLimit(1_000_000_000, timedelta(days=1))


def quota() -> keyauthority.Quota:
    """Return a quota that no load reaches."""
    return keyauthority.Quota(1_000_000_000, keyauthority.QuotaPeriod.MONTH)


def _certified(folder: Path) -> tuple[Path, tuple[str, ...]]:
    """Return a CA certificate, and server flags for a certificate that it issued."""
    made = server_tls(folder)
    ca = folder / "ca.pem"
    ca.write_bytes(made.ca)
    return ca, made.flags


def resident(pid: int) -> float:
    """Return the MB that a process has in memory."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("the process has ended")


def worked(pid: int) -> float:
    """Return the seconds that a process and its children have worked."""
    return sum(map(_worked, (pid, *children(pid))))


def _worked(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
