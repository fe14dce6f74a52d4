"""TLS during service: replaced certificates, old versions, silent connections."""

from __future__ import annotations

import socket
import ssl
import threading
from contextlib import ExitStack
from typing import Final

import pytest
from cryptography import x509

import keyauthority
from keyauthority import Client, KeyAuthorityError, Tls, VerdictCode
from tests.service.certificates import LOOPBACK, Pair
from tests.service.processes import wait_until
from tests.service.tls_world import CALL_SECONDS, GATEWAY, World
from tests.service.tls_world import world as world  # the fixture

pytestmark = pytest.mark.prove

SILENT: Final = 300
TAKEN_SECONDS: Final = 8  # of pauses between handshakes; it takes one


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_tls_older_than_1_2_is_rejected(world: World) -> None:
    """A client limited to TLS 1.1 fails; one with 1.2 connects."""
    pair = world.ours.issue(x509.UniformResourceIdentifier(GATEWAY)).write(world.folder, "old")

    def version(newest: ssl.TLSVersion) -> str | None:
        context = ssl.create_default_context(cadata=world.ours.pem.decode())
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, newest
        context.set_ciphers("ALL:@SECLEVEL=0")
        context.set_alpn_protocols(["h2"])
        context.load_cert_chain(*pair)
        host, _, port = world.server.address.rpartition(":")
        with (
            socket.create_connection((host, int(port)), timeout=CALL_SECONDS) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as secured,
        ):
            return secured.version()

    assert "TLSv1.2" == version(ssl.TLSVersion.TLSv1_2)
    with pytest.raises(OSError):  # noqa: PT011 - an alert, or the end of the connection
        version(ssl.TLSVersion.TLSv1_1)


def test_silent_tls_connections_do_not_block_others(world: World) -> None:
    """Calls are served beside clients that never begin their handshake."""
    host, _, port = world.server.address.rpartition(":")
    with ExitStack() as silent:
        for _ in range(SILENT):
            opened = socket.create_connection((host, int(port)), timeout=CALL_SECONDS)
            silent.enter_context(opened)
        gateway = world.gateway()
        for _ in range(20):
            assert keyauthority.VerdictCode.MALFORMED is gateway.verify("x").code


def test_replaced_certificate_is_used_without_a_failed_call(world: World) -> None:
    """New handshakes use valid new files; invalid ones are logged and the old serve on."""
    outcomes: list[str] = []
    ended = threading.Event()

    def load() -> None:
        while not ended.is_set():
            try:
                with world_client() as client:  # a handshake of its own, then calls
                    outcomes.extend(client.verify("x").code.name for _ in range(5))
            except KeyAuthorityError as failure:
                outcomes.append(repr(failure))

    pair = world.ours.issue(x509.UniformResourceIdentifier(GATEWAY))

    def world_client() -> Client:
        tls = Tls(ca=world.ours.pem, cert=pair.cert, key=pair.key)
        return Client(world.server.address, tls=tls, timeout=CALL_SECONDS)

    threads = [threading.Thread(target=load) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        before = served(world)
        (world.folder / "server.pem").write_bytes(b"no certificate")
        wait_until(lambda: "certificate_not_taken_over" in world.server.log_text())
        assert before == served(world)
        world.ours.issue(*LOOPBACK).write(world.folder, "server")
        wait_until(lambda: served(world) not in (before, None), TAKEN_SECONDS)
        many = len(outcomes)
        wait_until(lambda: len(outcomes) > many + 20)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert {"MALFORMED"} == set(outcomes)


def test_replaced_client_authorities_take_effect(world: World) -> None:
    """A client certificate of a removed authority is rejected, one of a new authority accepted.

    Open connections stay until they reach their maximum age.
    """
    theirs = world.other.issue(x509.UniformResourceIdentifier(GATEWAY))
    old = world.gateway()
    assert VerdictCode.MALFORMED is old.verify("x").code
    with pytest.raises(keyauthority.Unavailable):
        world.client(theirs).verify("x")
    ca = world.folder / "ca.pem"
    try:
        ca.write_bytes(world.other.pem)
        wait_until(lambda: served(world, theirs) is not None, TAKEN_SECONDS)
        with pytest.raises(keyauthority.Unavailable):
            world.gateway().verify("y")
        assert VerdictCode.MALFORMED is old.verify("x").code
    finally:
        ca.write_bytes(world.ours.pem)
        wait_until(lambda: served(world) is not None)


def served(world: World, shown: Pair | None = None) -> bytes | None:
    """The certificate that a handshake is served with now; None if it fails."""
    pair = shown or world.ours.issue(x509.UniformResourceIdentifier(GATEWAY))
    context = ssl.create_default_context(cadata=world.ours.pem.decode())
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # the client's certificate is judged in it
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(*pair.write(world.folder, "look"))
    host, _, port = world.server.address.rpartition(":")
    try:
        with (
            socket.create_connection((host, int(port)), timeout=CALL_SECONDS) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as secured,
        ):
            return secured.getpeercert(binary_form=True)
    except OSError:
        return None
