"""Both verifiers at a real server: local evaluation, calls, and reported usage."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest

from keyauthority import (
    AsyncClient,
    AsyncVerifier,
    Client,
    CreatedKey,
    PermissionDenied,
    RateLimit,
    UsageRow,
    VerdictCode,
    Verifier,
)
from keyauthority.model import KeyKind, KeyMode
from keyauthority.token import make, new_access_key, new_secret
from keyauthority.verifier.policy import IMPORTS
from tests.conftest import one_server
from tests.service.callers import with_other_secret
from tests.service.processes import WAIT_SECONDS, ServerProcess, wait_until
from tests.service.verifiers import VERIFIERS, Opens, Verifies, counted, told

pytestmark = one_server

RIGHTS = ("keys:verify", "keys:read", "changes:watch", "usage:report")
READ = {"permissions": ["orders:read"]}
LOGGER = "keyauthority.verifier"


@pytest.fixture
def created(client: Client) -> CreatedKey:
    """A key that may do all with orders, in a project of its own."""
    return create(client)


@pytest.fixture(params=VERIFIERS)
def opens(request: pytest.FixtureRequest) -> Opens:
    """Each verifier in turn."""
    return VERIFIERS[request.param]


@pytest.fixture
def verifier(server: ServerProcess, opens: Opens) -> Iterator[Verifies]:
    """A verifier of the first operator's that has begun to watch."""
    with opens(server.address, server.operator_key) as opened:
        told(opened, 1)
        yield opened


def create(client: Client, project_id: str = "", **fields: Any) -> CreatedKey:
    """Make a key that may do all with orders."""
    project_id = project_id or client.create_project("Shop").project_id
    wanted = {"mode": "test", "kind": "restricted", "permissions": ["orders:*"]} | fields
    return client.create_key(project_id, **wanted)


def known(verifier: Verifies, created: CreatedKey) -> int:
    """Let a verifier see a key; return how many calls it has made once it judges by itself."""
    assert verifier.verify(created.secret_key, **READ).valid
    before = len(verifier.asked)
    assert verifier.verify(created.secret_key, **READ).valid
    assert before == len(verifier.asked)
    return before


CHANGES: dict[str, tuple[Callable[[Client, CreatedKey], int], VerdictCode]] = {
    "revoked": (
        lambda client, created: client.revoke_key(created.key.access_key).revision,
        VerdictCode.REVOKED,
    ),
    "disabled": (
        lambda client, created: client.update_key(created.key.access_key, disabled=True).revision,
        VerdictCode.DISABLED,
    ),
    "narrowed": (
        lambda client, created: (
            client.update_key(created.key.access_key, permissions=["billing:read"]).revision
        ),
        VerdictCode.MISSING_PERMISSION,
    ),
    "suspended": (
        lambda client, created: (
            client.update_project(created.key.project_id, suspended=True).revision
        ),
        VerdictCode.PROJECT_SUSPENDED,
    ),
    "rotated": (
        lambda client, created: (
            client.rotate_key(created.key.access_key, overlap=timedelta(0)).revision
        ),
        VerdictCode.SUPERSEDED,
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_verifier_sees_a_change_without_a_call(
    client: Client, verifier: Verifies, created: CreatedKey, change: str
) -> None:
    """The watch delivers it; the server is asked only at the first use of a key."""
    calls = known(verifier, created)
    do, code = CHANGES[change]
    told(verifier, do(client, created))
    assert code is verifier.verify(created.secret_key, **READ).code
    assert calls == len(verifier.asked)


def test_verifier_sees_expiry_without_a_call(
    client: Client, verifier: Verifies, created: CreatedKey
) -> None:
    """A short overlap and a short life end by the server's clock, without a message."""
    dying = create(client, ttl=timedelta(seconds=0.8))
    known(verifier, dying)
    calls = known(verifier, created)
    rotated = client.rotate_key(created.key.access_key, overlap=timedelta(seconds=0.8))
    told(verifier, rotated.revision)
    known_now = {verifier.verify(created.secret_key, **READ).code}
    wait_until(lambda: not verifier.verify(created.secret_key, **READ).valid)
    wait_until(lambda: not verifier.verify(dying.secret_key, **READ).valid)
    assert known_now <= {VerdictCode.VALID, VerdictCode.SUPERSEDED}
    assert VerdictCode.SUPERSEDED is verifier.verify(created.secret_key, **READ).code
    assert VerdictCode.EXPIRED is verifier.verify(dying.secret_key, **READ).code
    assert calls == len(verifier.asked)


def test_verifier_spends_limits_at_the_server(client: Client, verifier: Verifies) -> None:
    """Every call that could spend is sent; one that is denied anyway is not."""
    limited = create(client, rate_limit=RateLimit(3, timedelta(days=1)))
    codes = [verifier.verify(limited.secret_key, **READ).code for _ in range(4)]
    assert [VerdictCode.VALID] * 3 + [VerdictCode.RATE_LIMITED] == codes
    calls = len(verifier.asked)
    assert VerdictCode.MISSING_PERMISSION is (
        verifier.verify(limited.secret_key, permissions=["billing:read"]).code
    )
    assert calls == len(verifier.asked)


def test_verifier_asks_about_an_unknown_token_once(
    client: Client, verifier: Verifies, created: CreatedKey
) -> None:
    """An attacker that repeats a token costs the server nothing until its key changes."""
    never = make(KeyKind.SECRET, KeyMode.TEST, new_access_key(), new_secret()).reveal()
    wrong = with_other_secret(created.secret_key.reveal())
    for token in (never, wrong) * 3:
        assert VerdictCode.UNKNOWN is verifier.verify(token).code
    assert 2 == len(verifier.asked)
    told(verifier, client.update_key(created.key.access_key, purpose="other").revision)
    assert VerdictCode.UNKNOWN is verifier.verify(wrong).code
    assert 3 == len(verifier.asked)


def test_verifier_never_answers_below_a_demanded_revision(
    client: Client, verifier: Verifies, created: CreatedKey
) -> None:
    """After a revocation the caller can demand its revision without waiting."""
    known(verifier, created)
    revision = client.revoke_key(created.key.access_key).revision
    verdict = verifier.verify(created.secret_key, at_least_revision=revision, **READ)
    assert VerdictCode.REVOKED is verdict.code
    assert VerdictCode.REVOKED is verifier.verify(created.secret_key, **READ).code


def test_verifier_fetches_records_from_the_server(
    client: Client, verifier: Verifies, created: CreatedKey
) -> None:
    """A watched change lacks parts of a record; include_record is a call."""
    known(verifier, created)
    told(verifier, client.revoke_key(created.key.access_key, note="left").revision)
    shown = verifier.verify(created.secret_key, include_record=True).key
    assert shown is not None
    assert ("left", client.get_key(created.key.access_key).created_by) == (
        shown.revoke_note,
        shown.created_by,
    )


def test_closed_verifier_refuses_to_verify(client: Client, created: CreatedKey) -> None:
    """It receives no changes and could report no usage."""
    with Verifier(client) as verifier:
        assert verifier.wait_until_fresh(WAIT_SECONDS)
        verifier.verify(created.secret_key)
    assert verifier.staleness is None
    client.revoke_key(created.key.access_key)
    assert VerdictCode.REVOKED is verifier.verify(created.secret_key).code


def totals(client: Client, created: CreatedKey) -> dict[VerdictCode, int]:
    """How often the key was verified with each verdict."""
    rows: list[UsageRow] = counted(client, created.key.access_key)
    return {row.verdict: row.count for row in rows}


def test_usage_is_reported_once_despite_lost_answers(
    server: ServerProcess,
    opens: Opens,
    client: Client,
    created: CreatedKey,
) -> None:
    """A report with a lost answer is repeated under its batch_id; the sum is exact."""
    every = timedelta(seconds=0.2)
    with opens(server.address, server.operator_key, report_interval=every) as verifier:
        told(verifier, 1)
        verifier.lost.append(None)
        verifier.verify(created.secret_key)  # counted by the server
        for _ in range(5):
            verifier.verify(created.secret_key, cost=3)
        verifier.verify(created.secret_key, permissions=["billing:read"])
        wait_until(lambda: any(call.startswith("report_usage") for call in verifier.asked))
    asked = [call for call in verifier.asked if call.startswith("report_usage")]
    assert len(set(asked)) < len(asked)  # by one, or two if it was closed while it repeated
    expected = {VerdictCode.VALID: 6, VerdictCode.MISSING_PERMISSION: 1}
    wait_until(lambda: expected == totals(client, created))
    rows = counted(client, created.key.access_key)
    assert 16 == sum(row.cost for row in rows)
    newest = max(row.last_used_time for row in rows)
    assert newest == client.get_key(created.key.access_key).last_used_time


def test_usage_of_many_keys_is_reported_whole(
    server: ServerProcess, opens: Opens, client: Client
) -> None:
    """Of a key each observation is reported too; those of more than a hundred were refused."""
    project_id = client.create_project("Shop").project_id
    keys = [create(client, project_id) for _ in range(101)]
    with opens(server.address, server.operator_key) as verifier:
        told(verifier, 1)
        for _ in range(2):  # the first is counted by the server
            assert all(verifier.verify(each.secret_key, **READ).valid for each in keys)
    wait_until(lambda: sum(row.count for row in client.get_usage(project_id)) == 202)


@pytest.mark.parametrize("missing", RIGHTS)
def test_verifier_without_a_right_degrades_or_fails(
    server: ServerProcess,
    opens: Opens,
    client: Client,
    created: CreatedKey,
    missing: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Without keys:verify or keys:read it cannot answer; without others it calls more."""
    rights = [right for right in RIGHTS if right != missing]
    operator = client.create_key(kind="operator", permissions=rights)
    with (
        caplog.at_level(logging.WARNING, LOGGER),
        opens(server.address, operator.secret_key.reveal()) as verifier,
    ):
        if missing == "changes:watch":
            wait_until(lambda: bool(caplog.records))
            assert all(verifier.verify(created.secret_key).valid for _ in range(2))
            assert 2 == len(verifier.asked)
        elif missing == "usage:report":
            told(verifier, 1)
            known(verifier, created)
        else:
            with pytest.raises(PermissionDenied, match=missing):
                verifier.verify(created.secret_key)
            if missing == "keys:read":
                wait_until(lambda: bool(caplog.records))
                told(verifier, create(client).revision)  # an update does not repeat it
    expected = {
        "keys:read": [f"{IMPORTS}: PERMISSION_DENIED"],
        "changes:watch": ["the watch has ended: PERMISSION_DENIED"],
        "usage:report": ["usage is not reported: PERMISSION_DENIED"],
    }
    assert expected.get(missing, []) == [
        ":".join(record.getMessage().split(":")[:2])
        for record in caplog.records
        if record.name == LOGGER  # asyncio's may come from the garbage of any test
    ]


def test_confined_verifier_verifies_its_projects_only(
    server: ServerProcess, opens: Opens, client: Client, created: CreatedKey
) -> None:
    """Keys of other projects are unknown to it, and cached as unknown."""
    foreign = create(client)
    operator = client.create_key(
        kind="operator", permissions=RIGHTS, operator_projects=[created.key.project_id]
    )
    with opens(server.address, operator.secret_key.reveal()) as verifier:
        told(verifier, 1)
        known(verifier, created)
        for _ in range(2):
            assert VerdictCode.UNKNOWN is verifier.verify(foreign.secret_key).code
        calls = len(verifier.asked)
        client.revoke_key(foreign.key.access_key)
        told(verifier, client.revoke_key(created.key.access_key).revision)
        assert VerdictCode.REVOKED is verifier.verify(created.secret_key).code
        assert VerdictCode.UNKNOWN is verifier.verify(foreign.secret_key).code
        assert calls == len(verifier.asked)


async def test_async_verifier_closes_during_a_watch_message(
    server: ServerProcess, client: Client
) -> None:
    """A message that arrives at that instant delays neither side."""
    async with AsyncClient(server.address, operator_key=server.operator_key) as authority:
        for _ in range(10):
            made = create(client)
            async with AsyncVerifier(authority) as verifier:
                await verifier.verify(made.secret_key)
                client.revoke_key(made.key.access_key)
                while (await verifier.verify(made.secret_key)).valid:  # noqa: ASYNC110 - it is busy
                    await asyncio.sleep(0)
