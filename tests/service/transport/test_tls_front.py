"""The TLS endpoint of the native transport: peers, limits, refusals, drain."""

from __future__ import annotations

import asyncio
import gzip
import logging
import os
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from keyauthority_server.transport import limits, tls_connection, tls_front
from tests.faults.frames import (
    DATA,
    END_STREAM,
    RST_STREAM,
    WINDOW_UPDATE,
    frame,
    headers,
    message,
)
from tests.service.callers import MIB, refusal
from tests.service.transport.fronts import (
    CALL_SECONDS,
    HANG,
    ORIGIN,
    PAGE,
    PAGES,
    PAGES_MAX,
    SIZE,
    Front,
    Raw,
    fronting,
)


async def ask(channel: grpc.aio.Channel, path: str, body: bytes = b"") -> str:
    """Make a call of bytes."""
    method: Any = channel.unary_unary(path)
    answer: bytes = await method(body, timeout=CALL_SECONDS)
    return answer.decode()


async def refused(channel: grpc.aio.Channel, path: str, body: bytes = b"") -> tuple[str, str]:
    """Make a call that fails; return its code and reason."""
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await ask(channel, path, body)
    found = refusal(failed.value)
    return found.code.name, found.reason


def call(path: str, stream: int = 1, *body: bytes) -> bytes:
    """The frames of a call with a message."""
    opening = headers(path, ())
    opening = opening[:5] + stream.to_bytes(4) + opening[9:]
    return opening + frame(DATA, END_STREAM, stream, message(b"".join(body)))


async def test_each_connection_has_its_own_peer(tmp_path: Path) -> None:
    """The handler sees the address and port of the client, however connections come and go."""
    async with fronting(tmp_path) as front:
        opened = []
        for number in range(24):
            raw = await front.connect(f"127.0.0.{number % 3 + 1}")
            if number % 4 == 3:
                raw.close()
            else:
                raw.begin()
                opened.append(raw)
        for raw in reversed(opened):
            raw.send(call(ORIGIN))
        for raw in opened:
            host, port = raw.writer.get_extra_info("sockname")
            answered = b"".join(one.body for one in await raw.stream_end(1) if one.kind == DATA)
            assert message(f"ipv4:{host}:{port}".encode()) == answered


@pytest.mark.parametrize("metadata", [(), (("x-keyauthority-connection", "0" * 32),)])
async def test_call_at_the_inner_socket_is_refused(
    tmp_path: Path, metadata: tuple[tuple[str, str], ...]
) -> None:
    """The folder admits this user only, and a call needs the secret of a connection."""
    async with fronting(tmp_path) as front, front.channel() as channel:
        assert await ask(channel, SIZE)
        inner = front.server._sockets.path("front")
        assert 0o700 == inner.parent.stat().st_mode & 0o777
        forged = await front.dial(inner)
        forged.begin()
        forged.send(headers(ORIGIN, metadata), frame(DATA, END_STREAM, 1, message(b"")))
        answered = await forged.stream_end(1)
        assert not [one for one in answered if one.kind == DATA]
        assert "ipv4:127.0.0.1:" in await ask(channel, ORIGIN)


async def test_client_cannot_name_another_connection(tmp_path: Path) -> None:
    """Metadata of a client that looks like the endpoint's mark changes nothing."""
    async with fronting(tmp_path) as front:
        raw, other = await front.connect("127.0.0.2"), await front.connect("127.0.0.3")
        raw.begin()
        secret = next(iter(front.server._tls.origins._expected))  # type: ignore[union-attr]
        other.begin()
        mark = (("x-keyauthority-connection", str(secret)),)
        other.send(headers(ORIGIN, mark), frame(DATA, END_STREAM, 1, message(b"")))
        await other.stream_end(1)
        raw.send(call(ORIGIN))
        answered = b"".join(one.body for one in await raw.stream_end(1))
        assert b"ipv4:127.0.0.2:" in answered


@pytest.mark.parametrize("stage", ["silent", "half a handshake", "no preface"])
async def test_slow_handshake_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stage: str
) -> None:
    """A connection that has not begun HTTP/2 in time is closed, and others are served."""
    monkeypatch.setattr(limits, "HANDSHAKE_SECONDS", 0.2)
    monkeypatch.setattr(tls_front, "LOOK_SECONDS", 0.05)
    async with fronting(tmp_path) as front, AsyncExitStack() as stack:
        if stage == "no preface":
            raw = await front.connect()
            raw.send(b"PRI * HTTP")
        else:
            raw = await front.dial()
            raw.send(b"\x16\x03\x01\x02\x00" if stage == "half a handshake" else b"")
        channel = await stack.enter_async_context(front.channel())
        assert "3" == await ask(channel, SIZE, b"abc")
        assert await raw.is_closed()
        await front.closed("handshake")
        assert "3" == await ask(channel, SIZE, b"abc")


@pytest.mark.parametrize(
    "sent", [b"GET / HTTP/1.1\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes(range(256))]
)
async def test_plaintext_at_the_tls_port_is_closed_quietly(
    tmp_path: Path, sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """It is counted, and nothing is logged: anyone can cause it."""
    caplog.set_level(logging.INFO)
    async with fronting(tmp_path) as front:
        raw = await front.dial()
        raw.send(sent)
        assert await raw.is_closed()
        await front.closed("handshake")
    assert [] == [one for one in caplog.records if one.name == "asyncio"]


@pytest.mark.parametrize("protocols", [(), ("http/1.1",)])
async def test_client_without_http2_is_closed(tmp_path: Path, protocols: tuple[str, ...]) -> None:
    """ALPN must choose h2 (RFC 9113, section 3.2)."""
    async with fronting(tmp_path) as front:
        raw = await front.connect(protocols=protocols)
        raw.send(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert await raw.is_closed()
        await front.closed("handshake")


async def test_another_protocol_within_tls_is_closed(tmp_path: Path) -> None:
    """Nothing of it reaches the server behind."""
    async with fronting(tmp_path) as front:
        raw = await front.connect()
        raw.send(b"GET / HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert await raw.is_closed()
        await front.closed("protocol")


async def test_large_message_is_refused_and_the_connection_goes_on(tmp_path: Path) -> None:
    """The refusal has its reason, though the native server has not read the message."""
    async with fronting(tmp_path) as front, front.channel() as channel:
        waiting = asyncio.ensure_future(ask(channel, HANG))
        for size in (4 * MIB + 1, 9 * MIB):
            told = await refused(channel, SIZE, b"x" * size)
            assert ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE") == told
        assert str(4 * MIB) == await ask(channel, SIZE, b"x" * 4 * MIB)
        assert not waiting.done()
        waiting.cancel()
    assert not front.counts.connections


async def test_message_that_does_not_come_ends_its_call(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Other calls on the connection go on."""
    monkeypatch.setattr(limits, "MESSAGE_SECONDS", 0.2)
    monkeypatch.setattr(tls_front, "LOOK_SECONDS", 0.05)
    async with fronting(tmp_path) as front:
        raw = await front.connect()
        raw.begin()
        raw.send(headers(SIZE, ()), frame(DATA, 0, 1, message(b"x" * 10)[:7]))
        end = await raw.stream_end(1)
        assert b"timed_out" in end[-1].body.lower() or b"did not arrive" in end[-1].body
        raw.send(call(SIZE, 3, b"whole"))
        assert message(b"5") in [one.body for one in await raw.stream_end(3)]


async def test_incomplete_requests_of_a_connection_are_bounded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A client that begins many large messages is closed; another is served."""
    monkeypatch.setattr(limits, "HELD_MAX", 3 * MIB)
    async with fronting(tmp_path) as front, front.channel() as channel:
        assert await ask(channel, SIZE)
        raw = await front.connect()
        raw.begin()
        await raw.frame()
        for stream in (1, 3, 5, 7):
            opening = headers(SIZE, ())
            raw.send(opening[:5] + stream.to_bytes(4) + opening[9:])
            part = message(b"", 2 * MIB) + b"x" * MIB
            for at in range(0, len(part), 16_384):
                raw.send(frame(DATA, 0, stream, part[at : at + 16_384]))
        assert await raw.is_closed()
        await front.closed("held")
        assert "1" == await ask(channel, SIZE, b"x")


async def test_compressed_message_is_served_and_a_bomb_is_refused(tmp_path: Path) -> None:
    """It is decompressed up to the limit and no further, also as a second message."""
    async with (
        fronting(tmp_path) as front,
        front.channel(compression=grpc.Compression.Gzip) as channel,
    ):
        assert str(MIB) == await ask(channel, SIZE, bytes(MIB))
        told = await refused(channel, SIZE, bytes(16 * MIB))
        assert ("RESOURCE_EXHAUSTED", "MESSAGE_TOO_LARGE") == told
        bomb = gzip.compress(bytes(16 * MIB))
        raw = await front.connect()
        raw.begin()
        raw.send(headers(SIZE, (("grpc-encoding", "gzip"),)))
        before = resident()
        sent = message(b"one") + message(bomb, flag=1)
        raw.send(*(frame(DATA, 0, 1, sent[at : at + 16_384]) for at in range(0, len(sent), 16_384)))
        raw.send(frame(DATA, END_STREAM, 1))
        assert message(b"3") in [one.body for one in await raw.stream_end(1)]
        raw.send(call(SIZE, 3))
        await raw.stream_end(3)
        assert resident() - before < 8 * MIB


def resident() -> int:
    """The bytes that this process holds."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def test_connections_of_one_peer_leave_room_for_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A peer beyond its share is closed before its handshake; another is served."""
    monkeypatch.setattr(tls_front, "CONNECTIONS_MAX", 6)
    async with fronting(tmp_path) as front, AsyncExitStack() as stack:
        held = [await front.connect("127.0.0.2") for _ in range(3)]
        with pytest.raises(OSError):  # noqa: PT011 - a reset, or the end of the connection
            await front.connect("127.0.0.2")
        await front.closed("connections")
        channel = await stack.enter_async_context(front.channel())
        assert "1" == await ask(channel, SIZE, b"x")
        held.pop().close()
        while not (raw := await connected(front, "127.0.0.2")):
            assert "1" == await ask(channel, SIZE, b"x")  # until the server has seen it
        raw.begin()
        raw.send(call(SIZE))
        assert await raw.stream_end(1)


async def connected(front: Front, source: str) -> Raw | None:
    """Make a handshake; None if the server closes the connection."""
    try:
        return await front.connect(source)
    except OSError:
        return None


async def test_handshakes_of_one_peer_leave_room_for_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of too many silent connections the oldest is closed."""
    monkeypatch.setattr(tls_front, "HANDSHAKES_MAX", 4)
    async with fronting(tmp_path) as front, front.channel() as channel:
        silent = [await front.dial() for _ in range(6)]
        await front.closed("handshake", 4)
        assert await silent[0].is_closed()
        assert "1" == await ask(channel, SIZE, b"x")


async def test_reset_flood_ends_its_own_connection(tmp_path: Path) -> None:
    """Calls that are opened and given up in turn (CVE-2023-44487) leave nothing behind."""
    async with fronting(tmp_path) as front, front.channel() as channel:
        raw = await front.connect()
        raw.begin()
        for stream in range(1, 20_001, 2):
            opening = headers(HANG, ())
            raw.send(opening[:5] + stream.to_bytes(4) + opening[9:])
            raw.send(frame(RST_STREAM, 0, stream, (8).to_bytes(4)))
        assert await raw.is_closed()
        assert "1" == await ask(channel, SIZE, b"x")


async def test_stream_is_produced_as_fast_as_its_client_reads(tmp_path: Path) -> None:
    """Messages that wait for a client are bounded in number; later all of them arrive."""
    async with fronting(tmp_path) as front, front.channel() as channel:
        pages: Any = channel.unary_stream(PAGES)
        stream = pages(b"", timeout=CALL_SECONDS)
        while not front.pages:
            assert "1" == await ask(channel, SIZE, b"x")
        for _ in range(50):  # meanwhile a server that does not wait would produce all
            assert "1" == await ask(channel, SIZE, b"x")
        assert len(front.pages) < PAGES_MAX
        numbers = []
        async for page in stream:
            assert PAGE == page[4:]
            numbers.append(int.from_bytes(page[:4]))
    assert list(range(PAGES_MAX)) == numbers


async def test_client_that_takes_no_bytes_is_closed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The bytes that wait for it would be held up to the age of the connection."""
    monkeypatch.setattr(tls_connection, "UNREAD_SECONDS", 0.3)
    monkeypatch.setattr(tls_front, "LOOK_SECONDS", 0.05)
    async with fronting(tmp_path) as front:
        raw = await front.connect()
        raw.begin()
        raw.send(frame(WINDOW_UPDATE, 0, 0, (2**30).to_bytes(4)))
        for stream in range(1, 41, 2):
            raw.send(call(PAGES, stream), frame(WINDOW_UPDATE, 0, stream, (2**30).to_bytes(4)))
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await front.closed("unread")


@pytest.mark.parametrize("limit", ["AGE_SECONDS", "IDLE_SECONDS"])
async def test_connection_is_sent_away_without_a_failed_call(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, limit: str
) -> None:
    """An old or idle connection is sent away first; calls that come meanwhile are answered."""
    monkeypatch.setattr(limits, limit, 0.1)
    monkeypatch.setattr(tls_front, "LOOK_SECONDS", 0.02)
    async with fronting(tmp_path) as front:
        raw = await front.connect()
        raw.begin()
        raw.send(call(SIZE))
        await raw.stream_end(1)
        while not raw.is_sent_away:
            await raw.frame()
        raw.send(call(SIZE, 3, b"late"))
        assert message(b"4") in [one.body for one in await raw.stream_end(3)]
        monkeypatch.setattr(tls_connection, "LINGER_SECONDS", 0)
        assert await raw.is_closed()
        assert not front.counts.connections


async def test_drain_answers_open_calls_and_refuses_connections(tmp_path: Path) -> None:
    """Clients are sent away first; the port is closed at once."""
    async with fronting(tmp_path) as front:
        raw = await front.connect()
        raw.begin()
        raw.send(call(SIZE, 1, b"open"), headers(SIZE, ())[:5] + (3).to_bytes(4))
        silent = await front.dial()
        answered = await raw.stream_end(1)
        draining = asyncio.ensure_future(front.drain())
        while not raw.is_sent_away:
            answered.append(await raw.frame())
        with pytest.raises(OSError):  # noqa: PT011 - refused
            await front.connect()
        assert message(b"4") in [one.body for one in answered]
        async with asyncio.timeout(CALL_SECONDS):
            await draining
        assert await raw.is_closed()
        assert await silent.is_closed()
