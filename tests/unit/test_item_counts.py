"""Item counts of a request, checked before it is parsed."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress

import pytest
from google.protobuf.json_format import MessageToJson
from google.protobuf.message import DecodeError, Message

from keyauthority.errors import ErrorReason, InvalidArgument
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority.v1 import usage_service_pb2 as usage_pb
from keyauthority_server.rpc import request_reader
from keyauthority_server.rpc.request_reader import PARSED_MAX, SCAN_ABOVE, RequestReader
from keyauthority_server.rpc.validate import CHECKS
from keyauthority_server.rpc_types import JsonBody
from keyauthority_server.services import time_slices
from keyauthority_server.services.time_slices import TimeSlices

PADDING = "x" * SCAN_ABOVE  # smaller messages are not scanned
SEED = 4


def refused(request_type: type[Message], body: bytes) -> InvalidArgument:
    """Return the error that reading these bytes raises."""
    with pytest.raises(InvalidArgument) as failed:
        RequestReader(request_type).read(body)
    return failed.value


@pytest.mark.parametrize(
    ("request_type", "body", "field"),
    [
        (pb.BatchVerifyRequest, b"\x0a\x00" * 100_000, "requests"),
        (usage_pb.ReportUsageRequest, b"\x12\x00" * 100_000, "rows"),
        (pb.VerifyRequest, b"\x2a\x00" * 100_000, "permissions"),
        (pb.CreateKeyRequest, b"\x5a\x00" * 100_000, "labels"),
    ],
)
def test_list_over_its_limit_is_rejected_by_name(
    request_type: type[Message], body: bytes, field: str
) -> None:
    """An empty item takes two bytes."""
    assert [field] == [one.field for one in refused(request_type, body).fields]


def test_nested_list_is_rejected_by_its_full_path() -> None:
    """In the form that the checks of single fields use."""
    target = {"service": "s", "methods": ["m"] * 101}
    restrictions = {"api_targets": [{"service": "s"}, target], "allowed_ips": [PADDING]}
    request = pb.CreateKeyRequest(restrictions=restrictions)  # type: ignore[arg-type]  # a dict will do
    told = refused(pb.CreateKeyRequest, request.SerializeToString())
    assert ["restrictions.api_targets[1].methods"] == [one.field for one in told.fields]
    item = pb.VerifyRequest(permissions=["a:b"] * 101, secret_key=PADDING)
    batch = pb.BatchVerifyRequest(requests=[pb.VerifyRequest(), item])
    told = refused(pb.BatchVerifyRequest, batch.SerializeToString())
    assert ["requests[1].permissions"] == [one.field for one in told.fields]
    update = pb.UpdateKeyRequest(purpose=PADDING)
    update.update_mask.paths.extend(["purpose"] * 101)
    told = refused(pb.UpdateKeyRequest, update.SerializeToString())
    assert ["update_mask"] == [one.field for one in told.fields]


def test_lists_at_their_limits_are_accepted() -> None:
    """A batch of the most items, each with the most permissions."""
    item = pb.VerifyRequest(permissions=["orders:read"] * 100)
    request = pb.BatchVerifyRequest(requests=[item] * 1000)
    assert request == RequestReader(pb.BatchVerifyRequest).read(request.SerializeToString())


def test_thousand_observations_are_accepted_in_each_encoding() -> None:
    """As many as rows, which they are beside."""
    one = usage_pb.KeyObservation(access_key="KA000000000000000000", permissions=["orders:read"])
    request = usage_pb.ReportUsageRequest(observations=[one] * 1000)
    read = RequestReader(usage_pb.ReportUsageRequest).read
    assert request == read(request.SerializeToString())
    assert request == read(JsonBody(MessageToJson(request).encode()))


@pytest.mark.parametrize("request_type", CHECKS, ids=lambda one: one.DESCRIPTOR.name)
@pytest.mark.parametrize(
    "piece",
    [b"\x0a\x00", b"\xf8\x07\x00", b"\xfb\x07\xfc\x07", b"\xf9\x07" + bytes(8)],
    ids=["a field set again", "an unknown number", "an unknown group", "an unknown fixed"],
)
def test_flood_of_fields_is_malformed(request_type: type[Message], piece: bytes) -> None:
    """For any number of fields the scan ends, and nothing is parsed."""
    told = refused(request_type, piece * 1_000_000)
    assert told.reason in (ErrorReason.INVALID_MESSAGE, ErrorReason.INVALID_FIELD)


def test_scan_accepts_no_message_that_the_parser_rejects() -> None:
    """Random damage to messages; the scan may reject more than the parser."""
    drawn = random.Random(SEED)
    item = pb.VerifyRequest(secret_key="y" * 78, permissions=["a:b"] * 5, cost=7)
    whole = pb.BatchVerifyRequest(requests=[item] * 60).SerializeToString()
    assert len(whole) > SCAN_ABOVE
    read = RequestReader(pb.BatchVerifyRequest).read
    for _ in range(500):
        body = bytearray(whole)
        body[drawn.randrange(len(body))] = drawn.randrange(256)
        try:
            known: Message | None = pb.BatchVerifyRequest.FromString(bytes(body))
        except DecodeError:
            known = None
        with suppress(InvalidArgument):
            assert known == read(bytes(body))
    assert read(whole) is not None


def test_fields_of_a_batch_that_are_not_items_are_bounded_in_each_message() -> None:
    """A larger batch does not raise the limit: they cost time before the batch is refused."""
    item = b"\x0a\x00" * 2000
    within = pb.BatchVerifyRequest(requests=[pb.VerifyRequest()]).SerializeToString()[:1]
    nested = within + bytes([0xA0, 0x1F]) + item
    assert ErrorReason.INVALID_MESSAGE is refused(pb.BatchVerifyRequest, nested * 900).reason
    reader = RequestReader(pb.BatchVerifyRequest)
    started = time.process_time()
    for _ in range(20):
        with pytest.raises(InvalidArgument):
            reader.read(b"\xf8\x07\x00" * 1_300_000)
    assert 0.2 > time.process_time() - started  # each took 60 ms when the sum was bounded


async def test_large_messages_that_are_read_at_once_share_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between two slices another task runs, while eight full batches are read."""
    monkeypatch.setattr(time_slices, "SLICE_SECONDS", 0.0)  # however fast the machine is
    item = pb.VerifyRequest(secret_key="x" * 78, permissions=["orders:read"] * 100)
    body = pb.BatchVerifyRequest(requests=[item] * 1000).SerializeToString()
    reader, slices, turns = RequestReader(pb.BatchVerifyRequest), TimeSlices(), 0
    reading = [asyncio.create_task(reader.read_in_slices(body, slices)) for _ in range(8)]
    while not all(one.done() for one in reading):
        await asyncio.sleep(0)
        turns += 1
    assert all(one.result() for one in reading)
    assert 8 * 100 < turns  # without slices each batch is one turn


def test_damaged_batch_is_refused_before_any_item_is_parsed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Cut in the last item or inside it: parsing the others would cost milliseconds."""
    item = pb.VerifyRequest(secret_key="x" * 78, permissions=["orders:read"] * 100)
    whole = pb.BatchVerifyRequest(requests=[item] * 1000).SerializeToString()
    lying = whole[:-12] + b"\x7f" + whole[-11:]  # the length of the last permission
    parsed: list[object] = []
    monkeypatch.setattr(request_reader, "_check_contents", lambda *part: parsed.append(part))
    for body in (whole[:-1], lying):
        assert ErrorReason.INVALID_MESSAGE is refused(pb.BatchVerifyRequest, body).reason
        assert [] == parsed
    RequestReader(pb.BatchVerifyRequest).read(whole)
    assert 1000 == len(parsed)


def test_cut_json_is_refused_before_it_is_scanned() -> None:
    """The scan takes 0.2 s for a full batch."""
    item = pb.VerifyRequest(secret_key="x" * 78, permissions=["orders:read"] * 100)
    whole = MessageToJson(pb.BatchVerifyRequest(requests=[item] * 1000), indent=None).encode()
    started = time.process_time()
    for _ in range(100):
        told = refused(pb.BatchVerifyRequest, JsonBody(whole[:-1]))
        assert ErrorReason.INVALID_MESSAGE is told.reason
    assert 1 > time.process_time() - started


def test_nested_message_above_the_size_that_is_parsed_is_counted_first() -> None:
    """The path names the list at any depth."""
    methods = ["m"] * 101 + ["x" * PARSED_MAX]
    request = pb.CreateKeyRequest()
    request.restrictions.api_targets.add(service="s")
    request.restrictions.api_targets.add(service="s", methods=methods)
    told = refused(pb.CreateKeyRequest, request.SerializeToString())
    assert ["restrictions.api_targets[1].methods"] == [one.field for one in told.fields]


@pytest.mark.parametrize("cut", [1, 2, 100])
def test_truncated_message_is_malformed(cut: int) -> None:
    """For any missing part."""
    whole = pb.VerifyRequest(secret_key=PADDING).SerializeToString()
    assert ErrorReason.INVALID_MESSAGE is refused(pb.VerifyRequest, whole[:-cut]).reason
