"""Deliveries: the events, their signatures, and every answer that a receiver can give."""

from __future__ import annotations

import base64
import secrets
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks.webhooks import WebhookVerificationError

from keyauthority import TOKEN_PATTERN, Client
from keyauthority.notify import sender
from tests.notify.conftest import SECRET, Sending, change, until_taken
from tests.notify.receiver import OK, Receiver, Reply
from tests.unit.waiting import until


def new_secret() -> str:
    """Return a secret, without padding as some programs write it."""
    return f"whsec_{base64.b64encode(secrets.token_bytes(32)).decode().rstrip('=')}"


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
    created = [one for one in hooks.requests if one.event["type"] == "key.created"]
    before, both, damaged, after = created

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
