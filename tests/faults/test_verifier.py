"""Verifiers whose server dies, is replaced, falls silent or is slow.

No verdict is VALID beyond the bound, every verifier recovers by itself, and no change is missed.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from keyauthority import Client, CreatedKey, VerdictCode, _channel
from keyauthority.errors import DeadlineExceeded, Unavailable
from tests.conftest import Start, each_grpc_transport, one_server
from tests.service.forkserver import shared
from tests.service.processes import ServerProcess, wait_until
from tests.service.proxy import proxy_to
from tests.service.verifiers import VERIFIERS, Opens, Verifies, told

pytestmark = pytest.mark.prove

BOUND = timedelta(seconds=2)
SLACK = 2.0  # seconds; a slow machine comes late, but not this late
CANNOT_TELL = (Unavailable, DeadlineExceeded)
EAGER: dict[str, Any] = {"max_staleness": BOUND, "timeout": 1.0}


@pytest.fixture(params=VERIFIERS)
def opens(request: pytest.FixtureRequest) -> Opens:
    """Each verifier in turn."""
    return VERIFIERS[request.param]


def client_of(server: ServerProcess) -> Client:
    """The first operator's client."""
    return Client(server.address, operator_key=server.operator_key)


def created(client: Client) -> CreatedKey:
    """A key in a project of its own."""
    project_id = client.create_project("Shop").project_id
    return client.create_key(project_id, mode="test", kind="secret")


def code(verifier: Verifies, made: CreatedKey) -> VerdictCode | None:
    """The verdict of a verifier on a key, None if it cannot decide."""
    try:
        return verifier.verify(made.secret_key).code
    except CANNOT_TELL:
        return None


def valid_for(verifier: Verifies, made: CreatedKey, since: float) -> float:
    """How long after a moment a key was last said to be valid, when it no longer is."""
    last = since
    while True:
        begun = monotonic()
        if code(verifier, made) is not VerdictCode.VALID:
            return last - since
        last = begun
        assert last - since < 30


def test_verifier_is_unavailable_after_a_kill_and_misses_no_change(
    start_server: Start,
) -> None:
    """Within the bound it answers, then it is unavailable; a prior revocation is seen."""
    server = start_server()
    key = server.operator_key
    with client_of(server) as client:
        kept, revoked = created(client), created(client)
        static = timedelta(seconds=4)
        with (
            VERIFIERS["threads"](server.address, key, **EAGER) as strict,
            VERIFIERS["tasks"](server.address, key, **EAGER, fail_static=static) as loose,
        ):
            for verifier in (strict, loose):
                told(verifier, revoked.revision)
                assert {VerdictCode.VALID} == {code(verifier, one) for one in (kept, revoked)}
            client.revoke_key(revoked.key.access_key)
            server.kill()
            dead = monotonic()
            assert valid_for(strict, kept, dead) < BOUND.total_seconds() + SLACK
            assert VerdictCode.VALID is code(loose, kept)
            lasted = valid_for(loose, kept, dead)
            assert BOUND.total_seconds() < lasted < static.total_seconds() + SLACK
            again = start_server(listen=server.address)
            back = monotonic()
            for verifier in (strict, loose):
                wait_until(lambda: code(verifier, kept) is VerdictCode.VALID)  # noqa: B023 - at once
                assert VerdictCode.REVOKED is code(verifier, revoked)
            assert monotonic() - back < 2 + SLACK
            told(strict, created(client).revision)  # and it watches again
        again.kill()


def test_verifier_forgets_everything_after_a_restore(
    start_server: Start, opens: Opens, tmp_path: Path
) -> None:
    """The restored server has another log, so all cached records are dropped."""
    server = start_server()
    key = server.operator_key
    with client_of(server) as client:
        old = created(client)
        folder = ("--data", str(server.data))
        assert 0 == shared().run("backup", str(tmp_path / "backup"), *folder).code
        young = created(client)
        with opens(server.address, key, **EAGER) as verifier:
            told(verifier, young.revision)
            assert {VerdictCode.VALID} == {code(verifier, one) for one in (old, young)}
            server.stop()
            outcome = shared().run("restore", str(tmp_path / "backup"), *folder)
            assert 0 == outcome.code, outcome.log
            start_server(listen=server.address)
            wait_until(lambda: code(verifier, young) is VerdictCode.UNKNOWN)
            wait_until(lambda: code(verifier, old) is VerdictCode.VALID)
            told(verifier, 1)
            assert VerdictCode.UNKNOWN is code(verifier, young)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A channel that detects a lost connection within half a second instead of eight."""
    fast = {
        "grpc.keepalive_time_ms": 500,
        "grpc.keepalive_timeout_ms": 500,
        "grpc.http2.ping_timeout_ms": 500,
    }
    options = dict(_channel.CHANNEL_OPTIONS) | fast
    monkeypatch.setattr(_channel, "CHANNEL_OPTIONS", tuple(options.items()))


@each_grpc_transport
@pytest.mark.usefixtures("hasty")
def test_hanging_connection_is_abandoned_at_the_bound(server: ServerProcess, opens: Opens) -> None:
    """Without FIN or data the verifier is unavailable after the bound and reconnects."""
    with client_of(server) as client, proxy_to(server.address) as proxy:
        made = created(client)
        with opens(proxy.address, server.operator_key, **EAGER) as verifier:
            told(verifier, made.revision)
            assert VerdictCode.VALID is code(verifier, made)
            proxy.hang()
            client.revoke_key(made.key.access_key)
            assert valid_for(verifier, made, monotonic()) <= BOUND.total_seconds()
            wait_until(lambda: code(verifier, made) is VerdictCode.REVOKED)
            told(verifier, created(client).revision)


@one_server
def test_late_message_counts_from_its_sending(server: ServerProcess, opens: Opens) -> None:
    """A message sent three seconds ago does not prove the present state."""
    with client_of(server) as client, proxy_to(server.address) as proxy:
        made = created(client)
        with opens(proxy.address, server.operator_key, **EAGER) as verifier:
            told(verifier, made.revision)
            assert VerdictCode.VALID is code(verifier, made)
            proxy.delay = 3.0
            client.revoke_key(made.key.access_key)
            assert valid_for(verifier, made, monotonic()) <= BOUND.total_seconds()
            proxy.delay = 0.0
            wait_until(lambda: code(verifier, made) is VerdictCode.REVOKED)


@one_server
def test_close_returns_on_a_hanging_connection(server: ServerProcess, opens: Opens) -> None:
    """Stopping a service does not wait for a silent server."""
    with client_of(server) as client, proxy_to(server.address) as proxy:
        made = created(client)
        with opens(proxy.address, server.operator_key, **EAGER) as verifier:
            told(verifier, made.revision)
            code(verifier, made)
            code(verifier, made)
            proxy.hang()
            since = monotonic()
        assert monotonic() - since < 5 + SLACK
