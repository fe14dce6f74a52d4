"""The HTTP end of whole servers: settings, start, TLS, workers and drain."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from cryptography import x509

from keyauthority_server import config
from keyauthority_server.config import ConfigError, HostPort
from keyauthority_server.transport.http.connection import PEER_MAX
from keyauthority_server.transport.limits import MESSAGE_SECONDS, descriptors_max
from tests.conftest import Start
from tests.service.callers import Caller, new_key, new_project
from tests.service.certificates import LOOPBACK, Issuer, Pair, server_tls
from tests.service.http_channel import HttpChannel, envelope, read_envelope
from tests.service.processes import WAIT_SECONDS, command, run, start, wait_until
from tests.service.tls_world import GATEWAY, World

VERIFY = "/keyauthority.v1.KeyAuthorityService/Verify"
WATCH = "/keyauthority.v1.KeyAuthorityService/WatchChanges"
STREAM = "application/connect+json"


def test_http_address_is_a_setting_like_any_other(tmp_path: Path) -> None:
    """Flag, environment and file; off by default; a unix socket is refused."""
    file = tmp_path / "server.toml"
    file.write_text('http = "127.0.0.1:1"\n')
    given = HostPort("127.0.0.1", 1)
    assert config.load({}, {}).http is None
    assert given == config.load({"http": "127.0.0.1:1"}, {}).http
    assert given == config.load({}, {"KEYAUTHORITY_HTTP": "127.0.0.1:1"}).http
    assert given == config.load({"config": str(file)}, {}).http
    assert given == config.parse(config.load({"config": str(file)}, {}).settings()).http
    with pytest.raises(ConfigError, match="--http: must "):
        config.load({"http": "unix:/x"}, {})


def test_plaintext_http_beyond_loopback_is_refused() -> None:
    """As for gRPC: a certificate, or a word that the network encrypts."""
    public = {"http": "0.0.0.0:8080"}
    with pytest.raises(ConfigError, match=r"0\.0\.0\.0:8080 is not loopback"):
        config.load(public, {})
    assert config.load(public | {"allow_plaintext": "true"}, {}).http
    assert config.load(public | {"tls_cert": "/c", "tls_key": "/k"}, {}).http


def test_http_line_comes_before_the_ready_line(exec_server: Start) -> None:
    """Port 0 picks a port, which no other server can have."""
    server = exec_server("--http", "127.0.0.1:0", "--workers", "2")
    assert server.http != server.address
    flags = ("--listen", "127.0.0.1:0", "--http", server.http)
    outcome = run("serve", "--data", str(server.data) + "2", *flags)
    assert 3 == outcome.code
    assert f"cannot listen on {server.http}: Address already in use" in outcome.log
    lines = server.stop().output.splitlines()
    assert [
        f"keyauthority-server http on {server.http}",
        f"keyauthority-server ready on {server.address}",
    ] == lines


def test_https_connection_is_closed_without_waiting_for_its_client(
    start_server: Start, tmp_path: Path
) -> None:
    """Beyond the places of a peer, and at the end: a client may never answer a close of TLS."""
    descriptors_max()
    tls = server_tls(tmp_path)
    server = start_server("--http", "127.0.0.1:0", *tls.flags)
    (worker,) = server.worker_pids()
    folder = Path(f"/proc/{worker}/fd")
    before = len(list(folder.iterdir()))
    with ExitStack() as stack:
        for _ in range(PEER_MAX + 200):
            idle = stack.enter_context(tls.connect(server.http))
            idle.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # else 40 ms for each
            idle.sendall(b"GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n")
            assert idle.recv(4096).startswith(b"HTTP/1.1 200")
        assert PEER_MAX + 50 > len(list(folder.iterdir())) - before
        began = time.monotonic()
        assert 0 == server.stop().code
        assert MESSAGE_SECONDS > time.monotonic() - began


def test_workers_share_the_address_and_drain(start_server: Start) -> None:
    """Calls on all connections are answered; streams end with a reason; exit code 0."""
    server = start_server("--http", "127.0.0.1:0", "--workers", "2")
    channels = [HttpChannel(server.http) for _ in range(20)]
    with ExitStack() as stack:
        for channel in channels:
            stack.enter_context(closing(channel))
        root: Any = Caller(channels[0], server.metadata)  # type: ignore[arg-type]
        secret = new_key(root, new_project(root)).secret_key
        body = json.dumps({"secretKey": secret}).encode()
        streams = [
            channel.post(WATCH, envelope(b"{}"), server.metadata, STREAM)
            for channel in channels[10:]
        ]
        assert all(read_envelope(stream)[0] == 0 for stream in streams)
        under_way = Barrier(11)
        with ThreadPoolExecutor(10) as pool:

            def call(channel: HttpChannel) -> int:
                count = 0
                try:
                    while True:
                        answer = channel.request(VERIFY, body, server.metadata)
                        assert (200, True) == (answer.status, answer.json["valid"])
                        count += 1
                        if count == 1:
                            under_way.wait(WAIT_SECONDS)
                except (OSError, http.client.HTTPException):  # the connection has been closed
                    return count

            calls = [pool.submit(call, channel) for channel in channels[:10]]
            under_way.wait(WAIT_SECONDS)
            server.terminate()
            ends = [end_of(stream) for stream in streams]
            assert all(one.result() for one in calls)
        assert 0 == server.wait().code
    assert {"ERROR_REASON_SHUTTING_DOWN"} == set(ends)


def end_of(stream: http.client.HTTPResponse) -> str:
    """The reason with which a stream ends."""
    with stream:
        flags, message = 0, b""
        while flags == 0:
            flags, message = read_envelope(stream)
    return str(json.loads(message)["error"]["details"][0]["debug"]["reason"])


def test_silent_connections_do_not_use_up_descriptors(data: Path) -> None:
    """With 256 descriptors, 400 connections that say nothing keep nobody out."""
    limited = ("bash", "-c", 'ulimit -n 256; exec "$0" "$@"', *command())
    server = start(data, "--http", "127.0.0.1:0", program=limited)
    host, _, port = server.http.rpartition(":")
    try:
        with ExitStack() as silent:
            for _ in range(400):
                opened = socket.create_connection((host, int(port)), 20)
                silent.enter_context(closing(opened))
            with closing(HttpChannel(server.http)) as channel:
                root: Any = Caller(channel, server.metadata)  # type: ignore[arg-type]
                assert new_project(root)
        assert "Traceback" not in server.log_text()
    finally:
        assert 0 == server.stop().code


def test_health_is_not_serving_while_draining(start_server: Start) -> None:
    """An open connection gets 503."""
    server = start_server("--http", "127.0.0.1:0", "--transport", "grpcio")
    host, _, port = server.http.rpartition(":")
    seen = set()
    with closing(http.client.HTTPConnection(host, int(port), 20)) as connection:
        connection.request("GET", "/healthz")
        with connection.getresponse() as response:
            assert (200, b'{"status":"SERVING"}') == (response.status, response.read())
        for pid in server.worker_pids():
            os.kill(pid, signal.SIGSTOP)
        server.terminate()
        connection.request("GET", "/healthz")
        for pid in server.worker_pids():
            os.kill(pid, signal.SIGCONT)
        try:
            with connection.getresponse() as response:
                seen.add(response.status)
        except (OSError, http.client.HTTPException):
            pass  # closed first
    assert seen <= {200, 503}
    assert 0 == server.wait().code


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """A server that demands client certificates."""
    with ExitStack() as stack:
        made = World(tmp_path_factory.mktemp("tls"), stack)
        made.serve("--http", "127.0.0.1:0")
        yield made


def secured(world: World, pair: Pair | None, ca: Issuer | None = None) -> Any:
    """A connection over TLS with this certificate."""
    context = ssl.create_default_context(cadata=(ca or world.ours).pem.decode())
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # the client's certificate is judged in it
    if pair is not None:
        context.load_cert_chain(*pair.write(world.folder, "http"))
    host, _, port = world.server.http.rpartition(":")
    return closing(http.client.HTTPSConnection(host, int(port), timeout=20, context=context))


def verified(connection: http.client.HTTPConnection, **headers: str) -> tuple[int, Any]:
    """The status and body of a Verify."""
    connection.request("POST", VERIFY, b"{}", {"content-type": "application/json"} | headers)
    with connection.getresponse() as response:
        return response.status, json.loads(response.read())


def test_client_certificate_stands_for_a_caller(world: World) -> None:
    """With the same files, the same names and the same rule for two credentials as gRPC."""
    gateway = world.ours.issue(x509.UniformResourceIdentifier(GATEWAY))
    stranger = world.ours.issue(x509.DNSName("stranger.example.org"))
    bearer = {"authorization": f"Bearer {world.server.operator_key}"}
    with secured(world, gateway) as connection:
        assert (200, "VERDICT_MALFORMED") == (
            (answer := verified(connection))[0],
            answer[1]["verdict"],
        )
        assert 401 == verified(connection, **bearer)[0]
    with secured(world, stranger) as connection:
        assert (401, 200) == (verified(connection)[0], verified(connection, **bearer)[0])


def test_connection_without_a_trusted_certificate_is_refused(world: World) -> None:
    """None, one of another authority, and plaintext."""
    other = world.other.issue(x509.UniformResourceIdentifier(GATEWAY))
    for pair in (None, other):
        with secured(world, pair) as connection, pytest.raises(OSError):  # noqa: PT011 - an alert
            verified(connection)
    host, _, port = world.server.http.rpartition(":")
    with (
        closing(http.client.HTTPConnection(host, int(port), 20)) as plain,
        pytest.raises((OSError, http.client.HTTPException)),
    ):
        verified(plain)


def test_renewed_certificate_is_taken_over(world: World) -> None:
    """New handshakes have it, open connections go on."""
    gateway = world.ours.issue(x509.UniformResourceIdentifier(GATEWAY))

    def served() -> bytes:
        with secured(world, gateway) as connection:
            connection.connect()
            shown: bytes = connection.sock.getpeercert(binary_form=True)
            return shown

    before = served()
    with secured(world, gateway) as connection:
        assert 200 == verified(connection)[0]
        world.ours.issue(*LOOPBACK).write(world.folder, "server")
        wait_until(lambda: served() != before)
        assert 200 == verified(connection)[0]
