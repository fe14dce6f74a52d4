"""The HTTP/2 frames of one connection: its open calls, and the requests that are incomplete.

Frame headers (RFC 9113, section 4.1) and the prefixes of gRPC messages are read; header blocks and
messages are not. An incomplete frame header is held back, so bytes that are passed on end within a
payload or between two frames, where a frame of the server's own may follow.
"""

from __future__ import annotations

from base64 import b64encode
from struct import Struct
from typing import Final

from keyauthority_server.overload.errors import message_too_large
from keyauthority_server.rpc_types import RpcError

STREAM_BYTES: Final = 16 * 1024  # held by a call without its message: headers and bookkeeping
MESSAGES_MAX: Final = 32  # of one call, before the server answers: only reflection takes several

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RST_STREAM, _GOAWAY, _CONTINUATION = 0, 1, 3, 7, 9
_END_STREAM, _END_HEADERS, _PADDED = 0x1, 0x4, 0x8
_FRAME_MAX: Final = 16 * 1024  # bytes of a payload, as the native server announces
_CANCEL: Final = 8
_STREAM: Final = 2**31 - 1
_HEADER_BYTES: Final = 9
_PREFIX_BYTES: Final = 5
_PREFIX_COMPRESSED: Final = 1
_STATUS_200: Final = b"\x88"  # RFC 7541, appendix A
_header: Final = Struct(">HBBBI")
_prefix: Final = Struct(">BI")


Bytes = bytes | bytearray


class FrameError(Exception):
    """The client sends what no gRPC client sends."""


class _Upload:
    """A request whose end has not come."""

    __slots__ = ("answered", "left", "messages", "prefix", "received", "refused", "since")

    def __init__(self) -> None:
        self.received = 0
        self.left = 0
        """Bytes to come of the current message."""
        self.prefix = b""
        """The part that has come of the next message's prefix."""
        self.messages = 0
        self.answered = self.refused = False
        self.since: float | None = None


class Calls:
    """The calls of one connection, known from both directions."""

    __slots__ = ("held", "newest", "open", "refused", "uploads")

    def __init__(self) -> None:
        self.open: set[int] = set()
        """The streams that have not ended."""
        self.newest = 0
        self.uploads: dict[int, _Upload | None] = {}
        """Requests whose end has not come, the oldest first; None before their first byte."""
        self.held = 0
        """Bytes that they hold in memory."""
        self.refused: list[tuple[int, RpcError]] = []
        """Calls to refuse; neither side knows."""

    def begin(self, stream: int, *, whole: bool) -> None:
        """Add a call; `whole` if its request has ended with its headers."""
        self.newest = stream
        self.open.add(stream)
        if not whole:
            self.uploads[stream] = None
            self.held += STREAM_BYTES

    def end(self, stream: int) -> None:
        """Remove a call."""
        self.open.discard(stream)
        if stream in self.uploads:
            self.end_upload(stream)

    def end_upload(self, stream: int) -> None:
        """Note that a request has ended."""
        upload = self.uploads.pop(stream)
        self.held -= STREAM_BYTES + (upload.received if upload else 0)

    def note_answer(self, stream: int) -> None:
        """Note that the server answers: it has read the messages so far."""
        upload = self._upload(stream)
        self.held -= upload.received
        upload.received = upload.messages = 0
        upload.answered = True

    def receive(self, stream: int, size: int) -> _Upload:
        """Count bytes of an incomplete request; return it."""
        upload = self._upload(stream)
        upload.received += size
        self.held += size
        return upload

    def refuse(self, stream: int, refusal: RpcError) -> None:
        """Have a call refused. What its client still sends counts as answered."""
        self.note_answer(stream)
        self._upload(stream).refused = True
        self.open.discard(stream)
        self.refused.append((stream, refusal))

    def is_refused(self, stream: int) -> bool:
        """Return whether a call was refused whose request has not ended."""
        upload = self.uploads.get(stream)
        return upload is not None and upload.refused

    def overdue(self, now: float, seconds: float) -> list[int]:
        """Return the calls whose request has been incomplete for so long, seen twice at least."""
        found = []
        for stream in self.uploads:
            upload = self._upload(stream)
            if upload.since is None:
                upload.since = now
            elif now - upload.since > seconds and not upload.answered:
                found.append(stream)
        return found

    def _upload(self, stream: int) -> _Upload:
        upload = self.uploads[stream]
        if upload is None:
            upload = self.uploads[stream] = _Upload()
        return upload


class ClientFrames:
    """Reads the frames that a client sends."""

    __slots__ = (
        *("_block", "_calls", "_ends", "_held", "_message_max"),
        *("_payload", "_skip", "_stream", "begun", "mark"),
    )

    def __init__(self, calls: Calls, message_max: int) -> None:
        self.begun = False
        """True once the preface has come."""
        self.mark: tuple[str, str] | None = None
        """Name and value of metadata to add to each call, while it is set."""
        self._calls = calls
        self._message_max = message_max
        self._held: Bytes = b""
        self._skip = 0  # bytes to come of a payload that is not read
        self._block = False  # within headers that go on in the next frame
        self._payload = 0  # bytes to come of a DATA frame that is read
        self._stream, self._ends = 0, False  # of that frame

    @property
    def between_frames(self) -> bool:
        """True if another frame may follow the bytes passed on."""
        return not (self._skip or self._payload or self._block)

    def read(self, data: Bytes) -> Bytes:
        """Return the bytes to pass on; raises FrameError.

        The flag of a compressed message is cleared: its receiver recognises and bounds it.
        """
        if self._held:
            data, self._held = self._held + data, b""
        size, at, calls = len(data), self._skip, self._calls
        passed, start = list[Bytes](), 0  # a copy for each call would take seconds for 10,000
        if self._payload:
            data, at = self._read_payload(data, 0)
        elif not self.begun:
            if not self._read_preface(data):
                return b""
            at = len(_PREFACE)
        while at + _HEADER_BYTES <= size:
            high, low, kind, flags, stream = _header.unpack_from(data, at)
            length, stream = high << 8 | low, stream & _STREAM
            at += _HEADER_BYTES
            if kind == _DATA:
                if stream not in calls.uploads:
                    at += length  # the receiver's to judge
                elif self._is_whole(data, at, flags, stream, length):
                    calls.end_upload(stream)
                    at += length
                else:
                    data, at = self._read_data(data, at, flags, stream, length)
                continue
            if kind == _HEADERS:
                self._block = not flags & _END_HEADERS
                if self.mark is not None and stream > calls.newest:
                    if at + length > size and length <= _FRAME_MAX:
                        at -= _HEADER_BYTES  # held back until all of it has come
                        break
                    passed.append(data[start : at - _HEADER_BYTES])
                    passed += _with_mark(data, at, flags, length, self.mark)
                    start = at + length
                if stream > calls.newest:
                    calls.begin(stream, whole=bool(flags & _END_STREAM))
                elif flags & _END_STREAM and stream in calls.uploads:
                    calls.end_upload(stream)
            elif kind == _RST_STREAM:
                calls.end(stream)
            elif kind == _CONTINUATION:
                self._block = not flags & _END_HEADERS
            at += length
        self._skip = max(at - size, 0)
        if at < size:
            self._held = data[at:]
        return _joined(passed, data, start, at)

    def _read_preface(self, data: Bytes) -> bool:
        start = bytes(data[: len(_PREFACE)])
        if not _PREFACE.startswith(start):
            raise FrameError("not HTTP/2")
        self.begun = len(start) == len(_PREFACE)
        if not self.begun:
            self._held = data
        return self.begun

    def _is_whole(self, data: Bytes, at: int, flags: int, stream: int, length: int) -> bool:
        """Return whether a DATA frame is a request: one message, uncompressed. Most are."""
        return (
            flags == _END_STREAM
            and length >= _PREFIX_BYTES
            and at + length <= len(data)
            and self._calls.uploads[stream] is None
            and _prefix.unpack_from(data, at) == (0, length - _PREFIX_BYTES)
        )

    def _read_data(
        self, data: Bytes, at: int, flags: int, stream: int, length: int
    ) -> tuple[Bytes, int]:
        if flags & _PADDED:
            raise FrameError("padded")
        self._stream, self._ends, self._payload = stream, bool(flags & _END_STREAM), length
        return self._read_payload(data, at)

    def _read_payload(self, data: Bytes, at: int) -> tuple[Bytes, int]:
        """Read what has come of a DATA frame; return the bytes, and where the rest begins."""
        end = min(len(data), at + self._payload)
        self._payload -= end - at
        if self._stream in self._calls.uploads:  # it may have ended meanwhile
            upload = self._calls.receive(self._stream, end - at)
            data = self._read_messages(upload, data, at, end)
            if self._ends and not self._payload:
                self._calls.end_upload(self._stream)
        return data, end

    def _read_messages(self, upload: _Upload, data: Bytes, at: int, end: int) -> Bytes:
        while at < end:
            if upload.left:
                step = min(upload.left, end - at)
                upload.left -= step
                at += step
                continue
            if not upload.prefix and data[at] == _PREFIX_COMPRESSED:
                if isinstance(data, bytes):
                    data = bytearray(data)
                data[at] = 0
            part = data[at : min(at + _PREFIX_BYTES - len(upload.prefix), end)]
            upload.prefix += bytes(part)
            at += len(part)
            if len(upload.prefix) == _PREFIX_BYTES:
                self._begin_message(upload)
        if upload.received > self._message_max + _PREFIX_BYTES and not upload.answered:
            self._calls.refuse(self._stream, message_too_large())
        return data

    def _begin_message(self, upload: _Upload) -> None:
        _, upload.left = _prefix.unpack(upload.prefix)
        upload.prefix = b""
        upload.messages += 1
        if upload.messages > MESSAGES_MAX:
            raise FrameError("too many messages")
        if upload.left > self._message_max and not upload.answered:
            self._calls.refuse(self._stream, message_too_large())


class ServerFrames:
    """Reads the frames that the server behind sends."""

    __slots__ = ("_block", "_calls", "_held", "_skip", "begun")

    def __init__(self, calls: Calls) -> None:
        self.begun = False
        """True once the server has sent a frame."""
        self._calls = calls
        self._held = b""
        self._skip = 0
        self._block = False  # within headers that go on in the next frame

    @property
    def between_frames(self) -> bool:
        """True if another frame may follow the bytes passed on."""
        return self.begun and not (self._skip or self._block)

    def read(self, data: bytes) -> Bytes:
        """Return the bytes to pass on.

        A reset of a refused call is left out: the server sends one for each part of the request
        that still comes, and clients on C-core may report INTERNAL in place of the refusal.
        """
        if self._held:
            data, self._held = self._held + data, b""
        size, at, calls = len(data), self._skip, self._calls
        passed, start = list[Bytes](), 0
        while at + _HEADER_BYTES <= size:
            high, low, kind, flags, stream = _header.unpack_from(data, at)
            at += _HEADER_BYTES + (high << 8 | low)
            if kind <= _HEADERS:
                if flags & _END_STREAM:
                    calls.end(stream)
                elif stream in calls.uploads:
                    calls.note_answer(stream)
                if kind == _HEADERS:
                    self._block = not flags & _END_HEADERS
            elif kind == _RST_STREAM:
                if calls.is_refused(stream):
                    begins = at - _HEADER_BYTES - (high << 8 | low)
                    if at > size:
                        at = begins
                        break
                    passed.append(data[start:begins])
                    start = at
                else:
                    calls.end(stream)
            elif kind == _CONTINUATION:
                self._block = not flags & _END_HEADERS
        self.begun = self.begun or at > 0
        self._skip = max(at - size, 0)
        if at < size:
            self._held = data[at:]
        return _joined(passed, data, start, at)


def _joined(parts: list[Bytes], data: Bytes, start: int, end: int) -> Bytes:
    """Return the parts and the bytes between two places; without a copy if they are all."""
    if not parts and end >= len(data):
        return data
    parts.append(data[start:end])
    return b"".join(parts)


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return _header.pack(*divmod(len(payload), 256), kind, flags, stream) + payload


GO_AWAY: Final = _frame(_GOAWAY, 0, 0, _STREAM.to_bytes(4) + bytes(4))
"""Asks the client to open its next calls elsewhere; those that are open are served."""


def reset(stream: int) -> bytes:
    """Return the frame by which a client gives up a call."""
    return _frame(_RST_STREAM, 0, stream, _CANCEL.to_bytes(4))


def refusal_frame(stream: int, refusal: RpcError) -> bytes:
    """Return the frame that ends a call with a status."""
    fields = [(b"content-type", b"application/grpc"), (b"grpc-status", b"%d" % refusal.code)]
    fields.append((b"grpc-message", refusal.message.encode()))
    fields += [(name.encode(), b64encode(text)) for name, text in refusal.trailing_metadata]
    block = _STATUS_200 + b"".join(_literal(*field) for field in fields)
    return _frame(_HEADERS, _END_STREAM | _END_HEADERS, stream, block)


def _with_mark(
    data: Bytes, at: int, flags: int, length: int, mark: tuple[str, str]
) -> tuple[Bytes, ...]:
    """Return the frame of the header block that begins at `at`, with metadata at its end."""
    if length > _FRAME_MAX or flags & _PADDED or not flags & _END_HEADERS:
        raise FrameError("unusual headers")
    field = _literal(*(text.encode() for text in mark))
    size = (length + len(field)).to_bytes(3)
    return size, data[at - _HEADER_BYTES + 3 : at + length], field


def _literal(name: bytes, text: bytes) -> bytes:
    """Return a field that is not indexed: the compression of others stays as it is (RFC 7541)."""
    return b"\0" + _text(name) + _text(text)


def _text(text: bytes) -> bytes:
    """Return a string literal (RFC 7541, section 5.2): its length in 7 bits, then in groups."""
    size = len(text)
    if size < 127:
        return bytes([size]) + text
    size, prefix = size - 127, b"\x7f"
    while size >= 128:
        prefix += bytes([size & 127 | 128])
        size >>= 7
    return prefix + bytes([size]) + text
