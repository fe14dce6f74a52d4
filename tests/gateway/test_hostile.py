"""Hostile requests: nothing is admitted, nothing inner is shown, and nothing grows."""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from typing import Any, cast

import pytest

from keyauthority.endpoint import http_server
from keyauthority.endpoint.answers import MetricsPage, Receive, Scope, Send
from keyauthority.endpoint.http_server import HEAD_MAX, HttpServer, connections_max
from keyauthority.endpoint.listen import Listen, bind
from keyauthority.gateway import envoy, identity, requirements
from keyauthority.gateway.check import Admitted
from keyauthority.model import KeyKind, Verdict, VerdictCode
from tests.gateway.conftest import one_sidecar
from tests.gateway.hostile import Found, attack, attack_http
from tests.gateway.processes import Gateway
from tests.gateway.upstream import upstream
from tests.proofs import PROVE, Proof, scaled

MIB = 1024 * 1024
SEED = 20_261_130
REQUESTS = scaled(short=4_000, each=200_000)
GROWTH_MAX = 16 * MIB  # from a tenth of the run on; the caches are full before


@pytest.mark.case(36)
@pytest.mark.timeout(600 * max(PROVE, 1))
@one_sidecar
def test_hostile_requests_admit_and_show_nothing(sidecar: Gateway, proof: Proof) -> None:
    """Smuggling, doubled and huge headers, chunked tricks, damaged messages: denied or refused."""
    found = asyncio.run(attack(sidecar, REQUESTS, SEED))
    memory = [size // MIB for size in found.memory]
    proof.done(f"{REQUESTS:,} requests: {dict(sorted(found.answers.items()))}; MiB: {memory}")
    assert [] == found.faults[:5]
    assert sidecar.process.poll() is None
    assert found.memory[-1] - found.memory[0] < GROWTH_MAX
    assert "a check failed" not in sidecar.log_text()
    assert "Traceback" not in sidecar.log_text()


@pytest.mark.case(36)
def test_hostile_request_that_is_admitted_is_seen(proof: Proof) -> None:
    """The attack on a service that answers 200 and shows the request."""
    found = Found()
    with upstream() as port:
        asyncio.run(attack_http(f"127.0.0.1:{port}", 100, random.Random(SEED), found))
    assert found.faults
    proof.control(f"{len(found.faults)} faults seen of a service that admits")


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    headers = [(b"connection", b"close")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    ("sent", "answer"),
    [
        (b"GET / HTTP/1.1\r\nx: y", b""),
        (b"", b""),
        (b"GET / HTTP/1.1\r\nx: " + b"y" * 200_000, b"HTTP/1.1 431 "),
        (b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nslow", b"HTTP/1.1 200 "),
    ],
    ids=["slow headers", "silence", "huge headers", "slow body"],
)
async def test_slow_or_huge_request_is_closed(
    sent: bytes, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the server, which would else hold as many connections as a client opens."""
    monkeypatch.setattr(http_server, "HEAD_SECONDS", 0.2)
    bound = bind(Listen("127.0.0.1", 0))
    server = HttpServer(_app, 1, 10)
    await server.start(bound)
    try:
        reader, writer = await asyncio.open_connection(*bound.getsockname())
        writer.write(sent)
        async with asyncio.timeout(10):
            try:
                got = await reader.read()
            except ConnectionResetError:  # it was closed with bytes unread
                got = b""
        assert got.startswith(answer) or len(sent) > HEAD_MAX
        writer.close()
    finally:
        await server.stop(bound)


async def test_connection_unused_for_longest_is_cut_for_a_new_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A proxy that uses its connection keeps it while others open idle ones."""
    monkeypatch.setattr(http_server, "CONNECTIONS_MAX", 8)
    most = connections_max()
    bound = bind(Listen("127.0.0.1", 0))
    server = HttpServer(MetricsPage(lambda: ""), 1, most)
    await server.start(bound)
    try:
        async with asyncio.timeout(20):
            opened = [await asyncio.open_connection(*bound.getsockname()) for _ in range(most)]
            proxy, idle, *_ = opened
            for _ in range(2):
                proxy[1].write(b"GET /metrics HTTP/1.1\r\n\r\n")
                assert b"HTTP/1.1 200 " == (await proxy[0].readuntil(b"\r\n\r\n"))[:13]
                opened.append(await asyncio.open_connection(*bound.getsockname()))
            with suppress(ConnectionResetError):
                assert b"" == await idle[0].read()
        for _, writer in opened:
            writer.close()
    finally:
        await server.stop(bound)


def test_caches_hold_nothing_large() -> None:
    """A client names headers and, without a proxy, routes; long ones are not kept."""
    caches = (
        *(identity._cached_sort, requirements._query, requirements._extensions),
        envoy._cached_constant,
    )
    before = [cache.cache_info().currsize for cache in caches]
    long = "a" * 10_000
    assert () == identity.names_to_remove([(long, "")], "key", keep_credential=False)
    assert requirements.from_query(long.encode()) is None
    assert requirements.from_extensions({"permission": long}) is None
    valid = Verdict(VerdictCode.VALID, kind=KeyKind.RESTRICTED, permissions=(long,))
    end = envoy.EnvoyEnd(cast("Any", None), keep_credential=False)
    assert long.encode() in end._admitted([], Admitted("key", valid))
    assert before == [cache.cache_info().currsize for cache in caches]
