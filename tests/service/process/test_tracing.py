"""Traces of real servers: spans of every transport and engine, parents, sampling, and failures."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Final, cast

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority.v1 import key_pb2
from tests.conftest import Start
from tests.postgres import Cluster
from tests.service.callers import ABSENT_KEY, Caller, new_project
from tests.service.collector import Collector, Span, collecting
from tests.service.forkserver import shared
from tests.service.http_channel import HttpChannel

PURPOSE: Final = "marked-purpose"
CLIENT_IP: Final = "198.51.100.77"
SPAN_ID: Final = "00f067aa0ba902b7"
KEYS: Final = "keyauthority.v1.KeyAuthorityService"
MARK: Final = "marked-text"

HOSTILE: Final[Sequence[tuple[tuple[str, str | bytes], ...]]] = (
    (("traceparent", ""),),
    (("traceparent", f"00-{'0' * 32}-{SPAN_ID}-01"),),
    (("traceparent", f"00-{'a' * 32}-{'0' * 16}-01"),),
    (("traceparent", f"ff-{'a' * 32}-{SPAN_ID}-01"),),
    (("traceparent", f"00-{'A' * 32}-{SPAN_ID}-01"),),
    (("traceparent", f"00-{'a' * 32}-{SPAN_ID}-01-{MARK}"),),
    (("traceparent", f"00-{'a' * 32}-{SPAN_ID}"),),
    (("traceparent", f"{MARK}{'a' * 3000}"),),
    (("traceparent-bin", b"\xff"), ("tracestate", MARK)),
)
REPEATED: Final = (
    ("traceparent", f"00-{'a' * 32}-{SPAN_ID}-01"),
    ("traceparent", f"00-{'b' * 32}-{SPAN_ID}-01"),
)
"""Python's gRPC client sends only one of them."""


def parent(trace_id: str, flags: str = "01") -> tuple[str, str]:
    """Return the metadata of a call that belongs to a trace."""
    return ("traceparent", f"00-{trace_id}-{SPAN_ID}-{flags}")


def traced(caller: Caller, *metadata: Any) -> Caller:
    """Return a caller that also sends these metadata."""
    return caller.bearing(*caller.metadata, *metadata)


def new_key(caller: Caller, project: str) -> pb.CreateKeyResponse:
    """Create a key with a limit."""
    request = pb.CreateKeyRequest(
        project_id=project,
        mode=key_pb2.KEY_MODE_TEST,
        kind=key_pb2.KEY_KIND_SECRET,
        purpose=PURPOSE,
        rate_limit=key_pb2.RateLimit(limit=100, period=Duration(seconds=3600)),
    )
    return cast("pb.CreateKeyResponse", caller.ask(request))


def call_span(spans: Sequence[Span], method: str, system: str, code: str = "OK") -> Span:
    """Return the only span of a call, which must be as the caller saw it."""
    (span,) = (span for span in spans if span.is_call)
    assert f"{KEYS}/{method}" == span.name
    expected = {
        "rpc.system.name": system,
        "rpc.method": f"{KEYS}/{method}",
        "rpc.response.status_code": code,
    }
    assert expected == span.attributes
    return span


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector of the test's own."""
    with collecting() as one:
        yield one


@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_every_call_and_each_of_its_transactions_has_a_span_in_the_callers_trace(
    engine: str,
    request: pytest.FixtureRequest,
    collector: Collector,
    start_server: Start,
    data: Path,
) -> None:
    """On every transport and engine; no span holds a token, a purpose or an address."""
    flags = ["--transport", "native", "--http", "127.0.0.1:0"]
    if engine == "postgres":
        cluster: Cluster = request.getfixturevalue("cluster")
        flags = ["--transport", "grpcio", "--store", cluster.create(), "--max-staleness", "30s"]
    server = shared().start(data, *flags, settings=collector.environment)
    system = "postgresql" if engine == "postgres" else "sqlite"
    secrets = [server.operator_key, PURPOSE, CLIENT_IP, "127.0.0.1", MARK]
    try:
        with grpc.insecure_channel(server.address) as channel:
            root = Caller(channel, server.metadata)
            secrets += exercise(root, collector, "grpc", system)
            check_hostile_parents(root, collector, HOSTILE)
            check_concurrent_calls(root, collector)
        if server.http_line:
            with closing(HttpChannel(server.http)) as connected:
                root = Caller(cast("grpc.Channel", connected), server.metadata)
                secrets += exercise(root, collector, "connectrpc", system)
                check_hostile_parents(root, collector, [*HOSTILE, REPEATED])
    finally:
        log = server.stop().log
    assert "keyauthority" == collector.resource["service.name"]
    sent = b"".join(collector.raw)
    assert [] == [text for text in secrets if text.encode() in sent]
    assert MARK not in log
    assert re.search(rf"mutation_refused .*span_id=\w{{16}} times=1 trace_id={'d' * 32}", log)


def exercise(root: Caller, collector: Collector, system: str, engine: str) -> list[str]:
    """Make calls of each sort in traces of their own; return texts that no span may hold."""
    project = new_project(root)
    digit = "1" if system == "grpc" else "2"
    ids = iter(digit + letter * 31 for letter in "abcdef")

    def spans_of(call: Callable[[Caller], object], transactions: Sequence[str]) -> Sequence[Span]:
        trace_id = next(ids)
        results.append(call(traced(root, parent(trace_id), ("tracestate", MARK))))
        spans = collector.trace(trace_id)
        (called,) = (span for span in spans if span.is_call)
        assert SPAN_ID == called.parent_id
        inner = [span for span in spans if span is not called]
        names = [span.name for span in inner]
        if engine == "postgresql":  # reads again what its feed has not brought yet
            names, transactions = (
                [name for name in both if name != "store.read"] for both in (names, transactions)
            )
        assert list(transactions) == names
        for span in inner:
            assert called.span_id == span.parent_id
            assert {"db.system.name": engine} == span.attributes
            assert called.start <= span.start <= span.end <= called.end
        return spans

    results: list[Any] = []
    call_span(
        spans_of(lambda caller: new_key(caller, project), ["store.write"]), "CreateKey", system
    )
    secret_key = results[0].secret_key
    verify = pb.VerifyRequest(secret_key=secret_key, client_ip=CLIENT_IP)
    cold = spans_of(lambda caller: caller.ask(verify), ["store.read", "store.draw"])
    call_span(cold, "Verify", system)
    warm = spans_of(lambda caller: caller.ask(verify), ["store.draw"])
    call_span(warm, "Verify", system)
    absent = pb.GetKeyRequest(access_key=ABSENT_KEY)
    denied = spans_of(lambda caller: caller.refused(absent), ["store.read"])
    assert not call_span(denied, "GetKey", system, "NOT_FOUND").is_error
    verifier = root.ask(
        pb.CreateKeyRequest(kind=key_pb2.KEY_KIND_OPERATOR, permissions=["keys:verify"])
    )
    bearer = ("authorization", f"Bearer {verifier.secret_key}")
    refused = Caller(root.channel, (bearer, parent("d" * 32)))
    refused.refused(pb.RevokeKeyRequest(access_key=results[0].key.access_key))
    trace_id = next(ids)
    watching = traced(root, parent(trace_id))
    watching.send("WatchChanges", pb.WatchChangesRequest(snapshot=True).SerializeToString())
    return [secret_key, verifier.secret_key, results[0].key.purpose]


def check_hostile_parents(
    root: Caller, collector: Collector, hostile: Sequence[Sequence[tuple[str, str | bytes]]]
) -> None:
    """Each is answered, and begins a trace of its own."""
    before = {span.span_id for span in collector.spans}
    for metadata in hostile:
        assert traced(root, *metadata).ask(pb.GetCallerRequest()).permissions

    def calls(spans: Sequence[Span]) -> list[Span]:
        new = [span for span in spans if span.span_id not in before]
        return [span for span in new if span.name.endswith("/GetCaller")]

    spans = calls(collector.wait(lambda spans: len(calls(spans)) == len(hostile)))
    assert [] == [span for span in spans if not span.is_root]
    assert len(hostile) == len({span.trace_id for span in spans})
    assert not {"a" * 32, "b" * 32} & {span.trace_id for span in spans}


def check_concurrent_calls(root: Caller, collector: Collector) -> None:
    """Calls that arrive together keep their traces apart."""
    path = f"/{KEYS}/GetKey"
    body = pb.GetKeyRequest(access_key=ABSENT_KEY).SerializeToString()
    unary: Any = root.channel.unary_unary(path)
    ids = [f"9{number:031x}" for number in range(20)]
    started = [
        unary.future(body, metadata=(*root.metadata, parent(trace_id)), timeout=20)
        for trace_id in ids
    ]
    assert all(one.exception() for one in started)
    for trace_id in ids:
        called, read = collector.trace(trace_id)
        assert (called.span_id, SPAN_ID) == (read.parent_id, called.parent_id)


def test_sampler_of_the_environment_decides_and_a_drain_exports_the_rest(
    collector: Collector, data: Path
) -> None:
    """With traceidratio 0.01 a trace is exported by its id; spans that wait are sent at the end."""
    settings = collector.environment | {
        "OTEL_TRACES_SAMPLER": "traceidratio",
        "OTEL_TRACES_SAMPLER_ARG": "0.01",
        "OTEL_BSP_SCHEDULE_DELAY": "60000",
        "OTEL_SERVICE_NAME": "keys",
    }
    server = shared().start(data, settings=settings)
    sampled, other = "f" * 16 + "00" + "f" * 14, "f" * 16 + "0f" + "f" * 14
    with grpc.insecure_channel(server.address) as channel:
        root = Caller(channel, server.metadata)
        for trace_id in (sampled, other):
            traced(root, parent(trace_id)).ask(pb.GetCallerRequest())
    assert [] == collector.spans
    assert 0 == server.stop().code
    assert {sampled} == {span.trace_id for span in collector.spans}
    assert "keys" == collector.resource["service.name"]


def test_collector_that_does_not_answer_neither_delays_calls_nor_the_drain(data: Path) -> None:
    """The endpoint accepts connections, and reads and sends nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": endpoint,
            "OTEL_BSP_SCHEDULE_DELAY": "10",
            "OTEL_BSP_MAX_QUEUE_SIZE": "8",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8",
        }
        server = shared().start(data, settings=settings)
        with grpc.insecure_channel(server.address) as channel:
            root = Caller(channel, server.metadata)
            for _ in range(50):
                root.ask(pb.GetCallerRequest())
        started = time.monotonic()
        outcome = server.stop()
    assert 0 == outcome.code
    assert time.monotonic() - started < 20  # the SDK by itself would wait for 30
    assert "Queue full, dropping Span." in outcome.log
