"""A server that demands client certificates, and those who would like to get in."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pytest
from cryptography import x509

from keyauthority import Client, Tls
from tests.conftest import TRANSPORTS
from tests.service.certificates import LOOPBACK, Issuer, Pair
from tests.service.forkserver import shared
from tests.service.processes import ServerProcess

GATEWAY: Final = "spiffe://example.org/gateway"
VERIFIER: Final = "verifier.example.org"
PROVISIONER: Final = "provisioner@example.org"
CALL_SECONDS: Final = 10
PROJECT: Final = str(uuid.UUID(int=0x11111111111141118111111111111111))

CALLERS: Final = f"""
[[callers]]
san = "{GATEWAY}"
permissions = ["keys:*", "projects:*", "operators:create"]

[[callers]]
san = "{VERIFIER}"
permissions = ["keys:verify"]

[[callers]]
san = "{PROVISIONER}"
permissions = ["keys:*", "projects:*", "operators:create"]
projects = ["{PROJECT}"]
"""


@dataclass
class World:
    """A server that demands certificates of one authority, and others who would like to get in."""

    folder: Path
    stack: ExitStack
    ours: Issuer = field(default_factory=Issuer)
    other: Issuer = field(default_factory=lambda: Issuer("another"))
    server: ServerProcess = field(init=False)

    def serve(self, *flags: str, start: Callable[..., ServerProcess] | None = None) -> None:
        """Start the server with these flags, by `start` of `processes` for one with settings."""
        self.ours.issue(*LOOPBACK).write(self.folder, "server")
        (self.folder / "ca.pem").write_bytes(self.ours.pem)
        config = self.folder / "server.toml"
        config.write_text(CALLERS, encoding="utf-8")
        self.server = (start or shared().start)(
            self.folder / "data",
            *("--config", str(config)),
            *("--tls-cert", str(self.folder / "server.pem")),
            *("--tls-key", str(self.folder / "server.key")),
            *("--tls-client-ca", str(self.folder / "ca.pem")),
            *flags,
        )
        self.stack.callback(self.server.stop)

    def client(self, pair: Pair | None, operator_key: str | None = None) -> Client:
        """A client that trusts the server's authority and shows this certificate."""
        cert, key = pair or (None, None)
        tls = Tls(ca=self.ours.pem, cert=cert, key=key)
        made = Client(self.server.address, operator_key=operator_key, tls=tls, timeout=CALL_SECONDS)
        return self.stack.enter_context(made)

    def named(self, *names: x509.GeneralName, operator_key: str | None = None) -> Client:
        """A client with a certificate of the right authority that has these names."""
        return self.client(self.ours.issue(*names), operator_key)

    def gateway(self) -> Client:
        """A client whose certificate stands for a caller of many rights."""
        return self.named(x509.UniformResourceIdentifier(GATEWAY))


@pytest.fixture(scope="module", params=TRANSPORTS)
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    """One server on each transport for this module."""
    with ExitStack() as stack:
        made = World(tmp_path_factory.mktemp("tls"), stack)
        made.serve("--transport", request.param)
        yield made
