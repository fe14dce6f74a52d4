"""Handshakes of the TLS endpoint: ciphers, renegotiation, and the notation of peers."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from keyauthority_server.certificates import load
from keyauthority_server.config import TlsFiles
from keyauthority_server.overload import peer_name
from keyauthority_server.transport import tls
from tests.service.certificates import LOOPBACK, Issuer


async def test_renegotiation_is_refused(tmp_path: Path) -> None:
    """A client could otherwise have one connection make handshake after handshake."""
    cert, key = Issuer().issue(*LOOPBACK).write(tmp_path, "server")
    material = load(TlsFiles(cert, key, None), datetime.now(UTC))
    context = tls.server_context(material, "h2")
    async with await asyncio.start_server(_listen, "127.0.0.1", 0, ssl=context) as server:
        host, port = server.sockets[0].getsockname()
        program = ("openssl", "s_client", "-tls1_2", "-alpn", "h2", "-connect", f"{host}:{port}")
        client = await asyncio.create_subprocess_exec(
            *program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        output, _ = await client.communicate(b"R\n")
    assert b"no renegotiation" in output.partition(b"RENEGOTIATING")[2]


async def _listen(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        await reader.read()
    writer.close()


def test_peer_is_written_as_by_grpcio() -> None:
    """An IPv4 client of an IPv6 socket has its IPv4 address."""
    assert "ipv4:10.1.2.3:5" == peer_name(("::ffff:10.1.2.3", 5, 0, 0))
    assert "ipv6:[fe80::1%eth0]:5" == peer_name(("fe80::1%eth0", 5, 0, 2))


def test_ciphers_are_those_of_http2() -> None:
    """AEAD with forward secrecy only (RFC 9113, section 9.2.2)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers(tls._CIPHERS)
    names = {one["name"] for one in context.get_ciphers()}
    assert names
    assert all(name.startswith(("TLS_", "ECDHE-")) for name in names)
    assert all("GCM" in name or "CHACHA20" in name for name in names)
