"""Every answer that a receiver can give, and its certificate."""

from __future__ import annotations

import threading
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography import x509

from keyauthority import Client
from keyauthority.clock import monotonic
from keyauthority.notify import outbox, webhook
from keyauthority.notify.events import Event
from keyauthority.notify.settings import ReceiverGone, Settings
from tests.notify.conftest import SECRET, Sending, change, until_taken
from tests.notify.receiver import OK, Receiver, Reply, answering, receiver
from tests.service.certificates import Issuer
from tests.unit.waiting import until


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
        (
            b"HTTP/1.1 429 Busy\r\nretry-after: Mon, 1 Jan " + b"9" * 30 + b" 00:00:00 GMT\r\n\r\n",
            429,
        ),
        (b"HTTP/1.1 429 Busy\r\nretry-after: Mon, 1 Jan 2024 00:00:00 +9999999999\r\n\r\n", 429),
        (b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 100_000, 0),
        (b"SSH-2.0-OpenSSH\r\n", 0),
        (b"", 0),
    ],
    ids=(
        *("long", "cut", "bad chunk", "low status", "switch", "bytes", "digits", "year", "zone"),
        *("headers", "other protocol", "empty"),
    ),
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
