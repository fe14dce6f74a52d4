"""HTTP/2 by hand: frames that no library would send (RFC 9113; headers as RFC 7541, 6.2.2)."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, NamedTuple

DATA: Final = 0
HEADERS: Final = 1
RST_STREAM: Final = 3
SETTINGS: Final = 4
PING: Final = 6
GOAWAY: Final = 7
WINDOW_UPDATE: Final = 8
END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SECONDS: Final = 10.0
STREAM: Final = 1


class Frame(NamedTuple):
    """The response."""

    kind: int
    flags: int
    stream: int
    body: bytes


def frame(
    kind: int, flags: int, stream: int, body: bytes = b"", length: int | None = None
) -> bytes:
    """A frame; `length` overrides the length in its header."""
    declared = len(body) if length is None else length
    return struct.pack(">I", declared)[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + body


def message(body: bytes, length: int | None = None, flag: int = 0) -> bytes:
    """A message as gRPC has it; `length` overrides the length in its header."""
    return struct.pack(">BI", flag, len(body) if length is None else length) + body


def headers(path: str, metadata: Iterable[tuple[str, str]]) -> bytes:
    """The frame that opens a call."""
    block = b""
    for name, value in (
        *((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost")),
        *(("te", "trailers"), ("content-type", "application/grpc")),
        *metadata,
    ):
        block += b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
    return frame(HEADERS, END_HEADERS, STREAM, block)


def exchanged(address: str, *frames: bytes, seconds: float = SECONDS) -> list[Frame]:
    """Send the frames over a connection of their own; return the response, up to the end.

    That is the end of the stream or of the connection, or nothing for so many seconds.
    """
    host, _, port = address.rpartition(":")
    found: list[Frame] = []
    with socket.create_connection((host, int(port)), seconds) as connection:
        with suppress(ConnectionError):  # refused before all of it was sent
            connection.sendall(PREFACE + frame(SETTINGS, 0, 0) + b"".join(frames))
        buffer = b""
        while not (found and _is_end(found[-1])):
            try:
                more = connection.recv(65_536)
            except (ConnectionError, TimeoutError):
                more = b""
            if not more:
                break
            buffer += more
            while len(buffer) >= 9 + (size := int.from_bytes(buffer[:3])):
                stream = int.from_bytes(buffer[5:9]) & 0x7FFF_FFFF
                found.append(Frame(buffer[3], buffer[4], stream, buffer[9 : 9 + size]))
                buffer = buffer[9 + size :]
                if found[-1].kind == SETTINGS and not found[-1].flags & ACK:
                    with suppress(ConnectionError):
                        connection.sendall(frame(SETTINGS, ACK, 0))
    return found


def _is_end(one: Frame) -> bool:
    return one.kind in (RST_STREAM, GOAWAY) or (
        one.kind in (DATA, HEADERS) and bool(one.flags & END_STREAM)
    )
