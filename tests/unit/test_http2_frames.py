"""HTTP/2 frames at the TLS endpoint: bytes pass on unchanged, calls and messages are counted."""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import pairwise
from time import thread_time
from typing import Final

import pytest
from google.rpc.code_pb2 import RESOURCE_EXHAUSTED
from hypothesis import given
from hypothesis import strategies as st

from keyauthority_server.overload.errors import message_overdue
from keyauthority_server.rpc_types import RpcError
from keyauthority_server.transport.http2_frames import (
    GO_AWAY,
    MESSAGES_MAX,
    STREAM_BYTES,
    Calls,
    ClientFrames,
    FrameError,
    ServerFrames,
    refusal_frame,
    reset,
)
from tests.faults.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PING,
    PREFACE,
    RST_STREAM,
    SETTINGS,
    frame,
    message,
)

MESSAGE_MAX: Final = 1_000
PADDED: Final = 0x8
CONTINUATION: Final = 9
OPENING: Final = PREFACE + frame(SETTINGS, 0, 0)


class Side:
    """A connection, read in both directions."""

    def __init__(self) -> None:
        self.calls = Calls()
        self.client = ClientFrames(self.calls, MESSAGE_MAX)
        self.server = ServerFrames(self.calls)
        self.passed = b""
        self.send(OPENING)

    def send(self, *frames: bytes) -> None:
        """Have the client send bytes, in pieces as given."""
        for piece in frames:
            self.passed += self.client.read(piece)

    def answer(self, *frames: bytes) -> bytes:
        """Have the server send bytes."""
        return b"".join(map(self.server.read, frames))

    def refused(self) -> list[tuple[int, int]]:
        """Streams and codes of the calls to refuse."""
        return [(stream, refusal.code) for stream, refusal in self.calls.refused]


def opened(stream: int = 1, flags: int = END_HEADERS) -> bytes:
    """The headers of a call; the block is not read."""
    return frame(HEADERS, flags, stream, b"block")


def whole(stream: int = 1, body: bytes = b"body") -> bytes:
    """A call with its message."""
    return opened(stream) + frame(DATA, END_STREAM, stream, message(body))


CONVERSATION: Final = (
    OPENING
    + whole(1)
    + frame(PING, 0, 0, b"12345678")
    + opened(3)
    + frame(DATA, 0, 3, message(b"a" * 300)[:3])
    + frame(DATA, 0, 3, message(b"a" * 300)[3:200])
    + frame(SETTINGS, ACK, 0)
    + frame(DATA, END_STREAM, 3, message(b"a" * 300)[200:])
    + opened(5, END_STREAM)
    + frame(CONTINUATION, END_HEADERS, 5, b"more")
    + opened(7)
    + frame(DATA, 0, 7, b"")
    + frame(DATA, 0, 7, message(b"packed", flag=1))
    + frame(DATA, END_STREAM, 7, b"")
    + opened(9)
    + frame(RST_STREAM, 0, 9, struct.pack(">I", 8))
    + opened(11)
    + frame(DATA, 0, 11, message(b"half")[:7])
)
CLEARED: Final = CONVERSATION.replace(message(b"packed", flag=1), message(b"packed"))
ANSWERS: Final = (
    frame(SETTINGS, 0, 0, b"\0\3\0\0\4\0")
    + opened(1)
    + frame(DATA, 0, 1, message(b"answer"))
    + opened(1, END_HEADERS | END_STREAM)
    + frame(RST_STREAM, 0, 3, bytes(4))
    + opened(7, 0)
    + frame(CONTINUATION, END_HEADERS, 7, b"block")
    + frame(DATA, END_STREAM, 7, b"x" * 100)
)


def pieces(whole: bytes, cuts: list[int]) -> list[bytes]:
    """The bytes, cut at these places."""
    places = [0, *sorted(cut % (len(whole) + 1) for cut in cuts), len(whole)]
    return [whole[start:end] for start, end in pairwise(places)]


@given(st.lists(st.integers(0, 10_000)), st.lists(st.integers(0, 10_000)))
def test_bytes_pass_on_unchanged_however_they_arrive(
    client_cuts: list[int], server_cuts: list[int]
) -> None:
    """Only the flag of a compressed message changes, and the same calls are counted."""
    side = Side()
    side.passed, side.client = b"", ClientFrames(side.calls, MESSAGE_MAX)
    side.send(*pieces(CONVERSATION, client_cuts))
    assert CLEARED == side.passed
    assert {1, 3, 5, 7, 11} == side.calls.open
    assert [11] == list(side.calls.uploads)
    assert STREAM_BYTES + 7 == side.calls.held
    assert ANSWERS == side.answer(*pieces(ANSWERS, server_cuts))
    assert {5, 11} == side.calls.open
    assert not side.calls.refused
    assert side.client.between_frames
    assert side.server.between_frames


def test_each_byte_alone_passes_on_the_same() -> None:
    """Frame headers and prefixes are put together from single bytes."""
    side = Side()
    side.passed, side.client = b"", ClientFrames(side.calls, MESSAGE_MAX)
    side.send(*(CONVERSATION[at : at + 1] for at in range(len(CONVERSATION))))
    assert CLEARED == side.passed


@pytest.mark.parametrize("start", [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 24, PREFACE[:-1] + b"x"])
def test_other_protocols_are_an_error(start: bytes) -> None:
    """A connection begins with the preface of HTTP/2; nothing else is passed on."""
    frames = ClientFrames(Calls(), MESSAGE_MAX)
    assert b"" == frames.read(PREFACE[:0])
    with pytest.raises(FrameError):
        frames.read(start)


def test_message_over_the_limit_is_refused_at_its_length() -> None:
    """The first five bytes suffice; a message of exactly the limit passes."""
    side = Side()
    side.send(opened(1), frame(DATA, 0, 1, message(b"", MESSAGE_MAX)))
    side.send(opened(3), frame(DATA, 0, 3, message(b"", MESSAGE_MAX + 1)))
    assert [(3, RESOURCE_EXHAUSTED)] == side.refused()
    assert {1} == side.calls.open


def test_messages_of_one_call_are_limited_together() -> None:
    """A unary call with several messages holds no more than one."""
    side = Side()
    side.send(opened(), *(frame(DATA, 0, 1, message(b"x" * 200)) for _ in range(4)))
    assert [] == side.refused()
    side.send(frame(DATA, 0, 1, message(b"x" * 200)))
    assert [(1, RESOURCE_EXHAUSTED)] == side.refused()
    side.send(frame(DATA, 0, 1, message(b"x" * 200)))
    assert [(1, RESOURCE_EXHAUSTED)] == side.refused()


def test_answered_messages_count_no_longer() -> None:
    """Reflection takes many messages in one call: the server answers each."""
    side = Side()
    side.send(opened())
    for _ in range(2 * MESSAGES_MAX):
        side.send(frame(DATA, 0, 1, message(b"x" * 200)))
        side.answer(frame(DATA, 0, 1, message(b"answer")))
    assert [] == side.refused()
    assert STREAM_BYTES == side.calls.held


@pytest.mark.parametrize("shape", ["one frame", "many frames"])
def test_flood_of_empty_messages_is_an_error(shape: str) -> None:
    """Each would cost more to read than it costs to send."""
    side = Side()
    side.send(opened())
    flood = [message(b"")] * (MESSAGES_MAX + 1)
    flood = flood if shape == "many frames" else [b"".join(flood)]
    with pytest.raises(FrameError):
        side.send(*(frame(DATA, 0, 1, one) for one in flood))


def test_padded_data_is_an_error() -> None:
    """No gRPC client pads, and padding would hide the prefix of a message."""
    side = Side()
    with pytest.raises(FrameError):
        side.send(opened(), frame(DATA, PADDED, 1, b"\1" + message(b"x") + b"\0"))


def test_reserved_bit_of_a_stream_is_ignored() -> None:
    """As the receiver does: the flag of its message is cleared all the same (RFC 9113, 4.1)."""
    side = Side()
    side.send(opened(1), frame(DATA, 0, 1 | 1 << 31, message(b"packed", flag=1)))
    assert side.passed.endswith(message(b"packed"))


def test_second_message_is_read_like_the_first() -> None:
    """The receiver decompresses it too, even in a unary call."""
    side = Side()
    side.send(opened(), frame(DATA, 0, 1, message(b"one") + message(b"two", flag=1)))
    assert side.passed.endswith(message(b"one") + message(b"two"))


def test_incomplete_calls_are_counted_until_they_end() -> None:
    """Headers alone count too; a reset, an end or an answer frees them."""
    side = Side()
    side.send(opened(1), opened(3), opened(5), frame(DATA, 0, 5, message(b"x" * 90, 900)))
    assert 3 * STREAM_BYTES + 95 == side.calls.held
    side.send(reset(1), frame(DATA, END_STREAM, 3, message(b"")))
    assert STREAM_BYTES + 95 == side.calls.held
    side.answer(frame(SETTINGS, 0, 0), opened(5, END_HEADERS | END_STREAM))
    assert (0, {3}) == (side.calls.held, side.calls.open)


def test_overdue_message_is_found_once_unless_answered() -> None:
    """The time counts from the first look; an answered call may stay open."""
    side = Side()
    side.send(opened(1), opened(3), whole(5))
    side.answer(frame(SETTINGS, 0, 0), opened(3))
    assert [] == side.calls.overdue(100.0, 10)
    assert [] == side.calls.overdue(110.0, 10)
    assert [1] == side.calls.overdue(110.1, 10)
    side.calls.refuse(1, message_overdue())
    assert [] == side.calls.overdue(200.0, 10)


def test_own_frames_wait_for_the_end_of_others() -> None:
    """Neither within a frame nor within the parts of a header block."""
    side = Side()
    sent = (
        frame(SETTINGS, 0, 0),
        opened(1, 0),
        frame(CONTINUATION, END_HEADERS, 1, b"rest"),
        frame(DATA, 0, 1, message(b"x"))[:-1],
    )
    for frames in (side.client, ServerFrames(side.calls)):
        found = []
        for one in sent:
            frames.read(one)
            found.append(frames.between_frames)
        assert [True, False, True, False] == found


def test_own_frames_follow_the_settings_of_the_server() -> None:
    """They are the first frame of a connection (RFC 9113, section 3.4)."""
    side = Side()
    assert not side.server.between_frames
    side.answer(frame(SETTINGS, 0, 0))
    assert side.server.between_frames


def test_reset_of_a_refused_call_is_not_passed_on() -> None:
    """In any pieces; other frames beside it are, and resets of other calls."""
    closed = struct.pack(">I", 5)
    kept = frame(PING, ACK, 0, b"12345678") + frame(RST_STREAM, 0, 3, closed) + opened(5)
    answers = (
        frame(RST_STREAM, 0, 1, closed) + kept[:17] + frame(RST_STREAM, 0, 1, closed) + kept[17:]
    )
    for size in (1, 2, 5, 13, len(answers)):
        side = Side()
        side.send(opened(1), opened(3), opened(5), frame(DATA, 0, 1, message(b"a" * 2_000)[:9]))
        assert [(1, RESOURCE_EXHAUSTED)] == side.refused()
        pieces = (answers[at : at + size] for at in range(0, len(answers), size))
        assert kept == side.answer(*pieces)
        assert {5} == side.calls.open


def test_refusal_is_a_header_frame_that_ends_the_call() -> None:
    """Its strings are literals with a length, short and long, and leave no state (RFC 7541)."""
    refusal = RpcError(8, "no", b"d" * 300)
    sent = refusal_frame(5, refusal)
    length, kind, flags, stream = int.from_bytes(sent[:3]), sent[3], sent[4], sent[5:9]
    assert (HEADERS, END_STREAM | END_HEADERS, 5) == (kind, flags, int.from_bytes(stream))
    assert len(sent) == 9 + length
    block = sent[9:]
    assert block.startswith(b"\x88\0\x0ccontent-type\x10application/grpc\0\x0bgrpc-status\x018")
    # 400 characters of base64: 127 and, in groups of 7 bits, 273 more.
    assert b"\0\x17grpc-status-details-bin\x7f\x91\x02ZGRk" in block


def test_go_away_names_no_call() -> None:
    """All calls that the client has opened are served."""
    assert frame(GOAWAY, 0, 0, b"\x7f\xff\xff\xff\0\0\0\0") == GO_AWAY


def seconds(read: Callable[[bytes], object], data: bytes) -> float:
    """Return the processor time of a read."""
    started = thread_time()
    read(data)
    return thread_time() - started


def marked(number: int) -> float:
    """Return the processor time of so many calls that get a mark, and come at once."""
    side = Side()
    side.client.mark = ("x-mark", "1")
    calls = b"".join(opened(2 * index + 1, END_HEADERS | END_STREAM) for index in range(number))
    return seconds(side.client.read, calls)


def left_out(number: int) -> float:
    """Return the processor time of so many resets of a refused call, which come at once."""
    side = Side()
    side.send(opened() + frame(DATA, 0, 1, message(b"", length=MESSAGE_MAX + 1)))
    assert [(1, RESOURCE_EXHAUSTED)] == side.refused()
    return seconds(side.server.read, frame(RST_STREAM, 0, 1, bytes(4)) * number)


@pytest.mark.parametrize("flood", [marked, left_out])
def test_time_of_a_flood_grows_with_its_bytes(flood: Callable[[int], float]) -> None:
    """10,000 calls in the first bytes of a connection took 6 s, without a credential."""
    few, many = (min(flood(number) for _ in range(3)) for number in (2_000, 40_000))
    assert many < 80 * few
