"""Verifiers whose authority dies, is replaced, falls silent or is far away: `faults.md` 29 and 34.

Nobody is told VALID beyond the bound, everybody recovers by himself, and nothing is missed.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

from keyauthority import Client, CreatedKey, VerdictCode, _channel
from keyauthority.errors import DeadlineExceeded, Unavailable
from tests.conftest import Start, each_transport, one_server
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
    """What a verifier says of a key, None if it cannot tell."""
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


def test_killed_authority_is_unavailable_and_missed_by_nobody_when_it_is_back(
    start_server: Start,
) -> None:
    """Within the bound it is known, then nobody can tell; a revocation before the kill is seen."""
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


def test_older_backup_in_its_place_forgets_everything(
    start_server: Start, opens: Opens, tmp_path: Path
) -> None:
    """A restored authority counts in another log: what was known of the old is worth nothing."""
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
    """A channel that finds out in half a second what else takes it eight."""
    fast = {
        "grpc.keepalive_time_ms": 500,
        "grpc.keepalive_timeout_ms": 500,
        "grpc.http2.ping_timeout_ms": 500,
    }
    options = dict(_channel.CHANNEL_OPTIONS) | fast
    monkeypatch.setattr(_channel, "CHANNEL_OPTIONS", tuple(options.items()))


@each_transport
@pytest.mark.usefixtures("hasty")
def test_connection_that_hangs_is_believed_for_the_bound_and_given_up(
    server: ServerProcess, opens: Opens
) -> None:
    """No FIN comes and no word: after the bound nobody can tell, and a new way is taken."""
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
def test_word_that_comes_late_counts_from_when_it_was_said(
    server: ServerProcess, opens: Opens
) -> None:
    """What the server said three seconds ago proves nothing of now."""
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
def test_closing_while_the_way_hangs_ends(server: ServerProcess, opens: Opens) -> None:
    """Whoever stops his service does not wait for an authority that says nothing."""
    with client_of(server) as client, proxy_to(server.address) as proxy:
        made = created(client)
        with opens(proxy.address, server.operator_key, **EAGER) as verifier:
            told(verifier, made.revision)
            code(verifier, made)
            code(verifier, made)
            proxy.hang()
            since = monotonic()
        assert monotonic() - since < 5 + SLACK
