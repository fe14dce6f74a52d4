"""Deliveries: the events, their signatures, and every answer that a receiver can give."""

from __future__ import annotations

import base64
import secrets
import threading
from datetime import timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509
from standardwebhooks.webhooks import WebhookVerificationError

from keyauthority import TOKEN_PATTERN, Client
from keyauthority.clock import monotonic
from keyauthority.notify import outbox, sender, webhook
from keyauthority.notify.events import Event
from keyauthority.notify.settings import ReceiverGone, Settings
from tests.notify.conftest import SECRET, Sending, change, until_taken
from tests.notify.receiver import OK, Receiver, Reply, answering, receiver
from tests.service.certificates import Issuer
from tests.unit.waiting import until


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of a fraction of a second; `test_outbox` shows those of the product."""
    monkeypatch.setattr(outbox, "DELAYS", (0.05,) * 400)
    monkeypatch.setattr(sender, "THROTTLE_SECONDS", 0.05)


def new_secret() -> str:
    """Return a secret."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode()}"


async def test_each_change_is_one_event_with_its_type_and_identity(
    sending: Sending, client: Client, hooks: Receiver
) -> None:
    """The data are those of WatchChanges, and no secret is among them."""
    async with sending():
        project = client.create_project("Shop")
        key = client.create_key(
            project.project_id,
            mode="live",
            kind="restricted",
            permissions=["orders:read"],
            purpose="é",
        )
        client.update_key(key.key.access_key, purpose="orders")
        rotated = client.rotate_key(key.key.access_key, overlap=timedelta(hours=1))
        client.revoke_key(key.key.access_key, reason="leaked", note="in a log")
        client.update_project(project.project_id, suspended=True)
        first = project.revision
        ids = [f"{key.log_id}-{revision}" for revision in range(first, first + 6)]
        await until(lambda: set(ids) <= hooks.taken.keys())
    requests = {request.id: request for request in hooks.requests}
    types = ["project.created", "key.created", "key.updated", "key.rotated", "key.revoked"]
    assert [*types, "project.updated"] == [requests[event_id].event["type"] for event_id in ids]
    assert 6 == len(hooks.requests)
    for revision, event_id in enumerate(ids, start=first):
        request = requests[event_id]
        request.verify(SECRET)
        assert str(revision) == request.event["data"]["revision"]
        assert key.log_id == request.event["data"]["logId"]
        assert request.event["timestamp"] == request.event["data"]["time"]
        assert "application/json" == request.headers["content-type"]
        assert not TOKEN_PATTERN.search(request.body.decode())
        assert b"in a log" not in request.body
    old, successor = requests[ids[3]].event["data"]["keys"]
    assert [key.key.access_key, rotated.key.access_key] == [
        old["accessKey"],
        successor["accessKey"],
    ]
    assert "é" == requests[ids[1]].event["data"]["keys"][0]["purpose"]
    assert requests[ids[5]].event["data"]["project"]["suspended"]


async def test_rotation_of_the_secret_is_seen_by_receivers_with_either(
    sending: Sending, client: Client, hooks: Receiver, tmp_path: Path
) -> None:
    """One signature per secret of the file, which is read without a restart."""
    old, new, file = SECRET, new_secret(), tmp_path / "secrets"
    async with sending():
        for text in (f"{old}\n", f"{new}\n{old}\n", "damaged\n", f"# of May\n\n{new}\n"):
            file.write_text(text, encoding="ascii")
            await until_taken(hooks, change(client))
    before, both, damaged, after = hooks.requests[1::2]

    def accepts(request: Any, secret: str) -> bool:
        try:
            request.verify(secret)
        except WebhookVerificationError:
            return False
        return True

    assert [True, False] == [accepts(before, secret) for secret in (old, new)]
    assert [True, True] == [accepts(both, secret) for secret in (old, new)]
    assert [True, True] == [accepts(damaged, secret) for secret in (old, new)]
    assert [False, True] == [accepts(after, secret) for secret in (old, new)]
    assert not accepts(both, new_secret())
    assert not accepts(both._replace(body=both.body.replace(b"LIVE", b"TEST")), new)


@pytest.mark.parametrize(("slots", "arrives"), [(sender.NEW_SLOTS, True), (1, False)])
async def test_later_events_do_not_wait_behind_a_slow_one(
    sending: Sending,
    client: Client,
    hooks: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    slots: int,
    arrives: bool,
) -> None:
    """The control has one slot."""
    monkeypatch.setattr(sender, "NEW_SLOTS", slots)
    released = threading.Event()
    hooks.answer = lambda event_id, number: OK if hooks.requests else Reply(wait=released.wait)
    async with sending():
        client.create_project("Shop")
        await until(lambda: hooks.requests)
        client.create_project("Second")
        client.create_project("Third")
        try:
            if arrives:
                await until(lambda: 3 == len(hooks.requests))
            else:
                with pytest.raises(TimeoutError):
                    await until(lambda: 1 < len(hooks.requests), 0.3)
        finally:
            released.set()
        await until(lambda: 3 == len(hooks.taken))


@pytest.mark.usefixtures("short")
async def test_retry_does_not_wait_behind_new_events(
    sending: Sending, client: Client, hooks: Receiver
) -> None:
    """It has a slot while slow answers hold all slots of new events."""
    released = threading.Event()
    slow = Reply(wait=released.wait)
    first: list[str] = []

    def answer(event_id: str, number: int) -> Reply:
        first.append(event_id)
        if event_id != first[0]:
            return slow
        return OK if sender.NEW_SLOTS < len({*first}) else Reply(500)

    hooks.answer = answer
    async with sending():
        client.create_project("Failing")
        for _ in range(sender.NEW_SLOTS + 1):
            client.create_project("Slow")
        try:
            await until(lambda: first and first[0] in hooks.taken)
            assert sender.NEW_SLOTS == len({*first} - {first[0]})
        finally:
            released.set()


async def test_later_events_do_not_wait_behind_a_failing_one(
    sending: Sending, client: Client, hooks: Receiver, tmp_path: Path
) -> None:
    """The failing one has a second attempt 5 s after the first."""
    hooks.answer = lambda event_id, number: OK if hooks.requests else Reply(500)
    async with sending():
        client.create_project("Shop")
        await until(lambda: hooks.requests)
        await until_taken(hooks, change(client))
    assert [500, 204, 204] == [request.status for request in hooks.requests]
    assert f'"failed","{hooks.requests[0].id}",1' in (tmp_path / "cursor").read_text()


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("status", [301, 303, 307])
async def test_redirect_is_a_failure_and_is_not_followed(
    sending: Sending, client: Client, hooks: Receiver, status: int
) -> None:
    """A receiver could send it to an inner address. A client that follows is seen at the target."""
    with receiver() as target:
        away = Reply(status, {"location": target.url})
        hooks.answer = lambda event_id, number: away if number == 1 else OK
        async with sending():
            event_id = change(client)
            await until(lambda: event_id in hooks.taken)
        assert [] == target.requests
        async with httpx.AsyncClient(follow_redirects=True) as follower:
            hooks.answer = lambda event_id, number: away
            await follower.post(hooks.url, content=b"{}")
        assert 1 == len(target.requests)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("status", [304, 400, 404, 500, 599])
async def test_every_other_status_is_repeated_with_the_same_identity_and_body(
    sending: Sending, client: Client, hooks: Receiver, status: int
) -> None:
    """Only 2xx is a success."""
    hooks.answer = lambda event_id, number: Reply(status) if number < 3 else Reply(299)
    async with sending():
        event_id = change(client)
        await until(lambda: event_id in hooks.taken)
    requests = [request for request in hooks.requests if request.id == event_id]
    assert [status, status, 299] == [request.status for request in requests]
    assert 1 == len({request.body for request in requests})
    for request in requests:
        request.verify(SECRET)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize(
    ("status", "headers", "least"),
    [
        (429, {"Retry-After": "1"}, 1.0),
        (503, {"retry-after": "1"}, 1.0),
        (429, {}, 0.05),
        (429, {"retry-after": "soon"}, 0.05),
        (502, {}, 0.05),
    ],
)
async def test_receiver_under_load_gets_no_request_before_the_time_that_it_names(
    sending: Sending,
    client: Client,
    hooks: Receiver,
    status: int,
    headers: dict[str, str],
    least: float,
) -> None:
    """Neither a repeat nor another event; without a time the pause is short."""
    times: list[float] = []

    def answer(event_id: str, number: int) -> Reply:
        times.append(monotonic())
        return Reply(status, headers) if len(times) == 1 else OK

    hooks.answer = answer
    async with sending():
        client.create_project("Shop")
        await until(lambda: hooks.requests)
        await until(lambda: times[0] + 0.04 < monotonic())
        await until_taken(hooks, change(client))
        await until(lambda: hooks.requests[0].id in hooks.taken)
    assert least <= times[1] - times[0] < least + 0.9


async def test_receiver_that_is_gone_gets_nothing_until_the_next_start(
    sending: Sending, client: Client, hooks: Receiver
) -> None:
    """410 ends the command; the events wait in the cursor file."""
    hooks.answer = lambda event_id, number: Reply(410)

    async def send_one() -> None:
        async with sending() as running:
            client.create_project("Shop")
            await until(running.done)

    with pytest.raises(ReceiverGone, match=r"410 Gone.*1 wait in the cursor file"):
        await send_one()
    later = change(client)
    assert 1 == len(hooks.requests)
    hooks.answer = lambda event_id, number: OK
    async with sending():
        await until(lambda: {later, hooks.requests[0].id} <= hooks.taken.keys())
    assert {1} == set(hooks.taken.values())


@pytest.mark.usefixtures("short")
async def test_answer_that_takes_too_long_is_a_failure(
    sending: Sending, client: Client, hooks: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A receiver cannot hold a slot for ever."""
    assert 15 <= webhook.ATTEMPT_SECONDS <= 30
    monkeypatch.setattr(webhook, "ATTEMPT_SECONDS", 0.2)
    released = threading.Event()
    slow = Reply(wait=released.wait)
    hooks.answer = lambda event_id, number: slow if number == 1 else OK
    async with sending():
        client.create_project("Shop")
        await until(lambda: 2 == len(hooks.requests))
    released.set()
    assert 1 == len({request.id for request in hooks.requests})


@pytest.mark.usefixtures("short")
async def test_event_is_given_up_after_the_last_attempt(
    sending: Sending,
    client: Client,
    hooks: Receiver,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is named in the log as an error, and others go on."""
    monkeypatch.setattr(outbox, "DELAYS", (0.02,) * 9)
    hooks.answer = lambda event_id, number: Reply(500) if event_id == failing[0] else OK
    failing = [""]
    async with sending():
        revision = client.create_project("Shop").revision
        log_id = client.create_key(
            client.create_project("Other").project_id, mode="test", kind="secret"
        ).log_id
        await until(lambda: f"{log_id}-{revision + 2}" in hooks.taken)
        failing[0] = f"{log_id}-{revision + 3}"
        client.create_project("Failing")
        await until(lambda: any("is given up after 10 attempts" in one for one in caplog.messages))
        await until_taken(hooks, change(client))
    assert 10 == sum(request.id == failing[0] for request in hooks.requests)


async def test_drain_waits_for_the_answer_of_attempts_that_have_begun(
    sending: Sending, client: Client, hooks: Receiver
) -> None:
    """An event that the receiver takes in the drain is not sent again."""
    released = threading.Event()
    hooks.answer = lambda event_id, number: Reply(wait=released.wait)
    async with sending():
        client.create_project("Shop")
        await until(lambda: hooks.requests)
        threading.Timer(0.1, released.set).start()
    hooks.answer = lambda event_id, number: OK
    async with sending():
        await until_taken(hooks, change(client))
    assert {1} == set(hooks.taken.values())


async def test_changes_of_a_stop_are_delivered_with_a_cursor_and_only_then(
    sending: Sending, client: Client, hooks: Receiver
) -> None:
    """Without a cursor file each start begins with now."""
    for fields, is_delivered in (({}, True), ({"cursor_file": None}, False)):
        async with sending(**fields):
            pass
        missed = change(client)
        async with sending(**fields):
            await until_taken(hooks, change(client))
        assert is_delivered == (missed in hooks.taken)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n" + bytes(1_000_000), 200),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nshort", 200),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", 200),
        (b"HTTP/1.1 99 Low\r\n\r\n", 0),
        (b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", 0),
        (b"HTTP/1.1 429 Busy\r\nretry-after: \xff\r\ncontent-length: 0\r\n\r\n", 429),
        (b"HTTP/1.1 429 Busy\r\nretry-after: " + b"9" * 9999 + b"\r\n\r\n", 429),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 100_000, 0),
        (b"SSH-2.0-OpenSSH\r\n", 0),
        (b"", 0),
    ],
)
async def test_malformed_answer_is_a_failure_unless_its_status_is_2xx(
    given: dict[str, Any], body: bytes, status: int
) -> None:
    """Nothing that a receiver sends ends the command, or is held in memory."""
    with answering(body) as url:
        async with webhook.Webhook(Settings(**{**given, "webhook": url})) as target:
            answer = await target.send(Event("1", "{}"))
    assert status == answer.status
    assert (200 == status) == (not answer.failure)


@pytest.mark.parametrize(
    ("is_trusted", "name", "reason"),
    [
        (True, "127.0.0.1", ""),
        (False, "127.0.0.1", "CERTIFICATE_VERIFY_FAILED"),
        (True, "127.0.0.2", "IP address mismatch"),
    ],
)
async def test_certificate_of_the_receiver_is_verified(
    given: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    is_trusted: bool,
    name: str,
    reason: str,
) -> None:
    """Against the roots of the system, which have the issuer in the control, and by its name."""
    issuer = Issuer()
    (tmp_path / "roots.pem").write_bytes((issuer if is_trusted else Issuer("another")).pem)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "roots.pem"))
    pair = issuer.issue(x509.IPAddress(IPv4Address(name)))
    with receiver(pair.write(tmp_path, "hooks")) as secure:
        async with webhook.Webhook(Settings(**{**given, "webhook": secure.url})) as target:
            answer = await target.send(Event("1", "{}"))
        assert len(secure.requests) == (not reason)
    assert reason in answer.failure
    assert bool(answer.failure) == bool(reason)
