"""The way from the log of changes: a new position, a lost log, an operator key that changes."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keyauthority import AsyncClient, Client, KeyKind, Unauthenticated
from keyauthority.errors import ErrorReason, KeyAuthorityError, error
from keyauthority.model import Change
from keyauthority.notify import follow, outbox
from keyauthority.notify.events import Event, event_of_change
from keyauthority.notify.follow import RIGHTS, Follower
from keyauthority.notify.journal import Journal
from keyauthority.notify.outbox import Outbox, Position
from keyauthority.notify.settings import CannotNotify, Settings
from keyauthority.results import WatchUpdate
from keyauthority.testing import Authority
from tests.notify.conftest import Sending, change, until_taken
from tests.notify.receiver import OK, Receiver, Reply
from tests.service.proxy import Proxy
from tests.unit.waiting import until


def operator_key(client: Client, rights: list[str]) -> tuple[str, str]:
    """Return the access key and the token of a new operator."""
    created = client.create_key("", kind=KeyKind.OPERATOR, permissions=rights)
    return created.key.access_key, "" + created.secret_key


async def write_position(path: Path, position: Position) -> None:
    """Make a cursor file."""
    with Journal(path) as journal:
        written = Outbox(journal)
        written.take(position, ())
        await written.flush()


@pytest.mark.parametrize("missing", RIGHTS)
async def test_missing_right_is_named(sending: Sending, client: Client, missing: str) -> None:
    """Events would be missing without it."""
    _, key = operator_key(client, [right for right in (*RIGHTS, "keys:read") if right != missing])
    with pytest.raises(CannotNotify, match=f"the operator key lacks {missing}$"):
        async with sending(read_key=lambda: key):
            pass


async def test_operator_key_with_the_rights_suffices(
    sending: Sending, client: Client, hooks: Receiver
) -> None:
    """It needs no more than the documented ones."""
    _, key = operator_key(client, list(RIGHTS))
    async with sending(read_key=lambda: key):
        await until_taken(hooks, change(client))


async def test_invalid_operator_key_ends_the_start(sending: Sending, client: Client) -> None:
    """Waiting would not make it valid."""
    access_key, key = operator_key(client, ["*:*"])
    client.revoke_key(access_key, reason="no_longer_used")
    with pytest.raises(Unauthenticated):
        async with sending(read_key=lambda: key):
            pass


async def test_operator_key_is_replaced_without_a_loss(
    sending: Sending,
    client: Client,
    hooks: Receiver,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A revoked key is logged, changes wait, and the next key of the file goes on from there."""
    monkeypatch.setattr(follow, "RETRY_MAX", 0.05)
    caplog.set_level("INFO")
    first, key = operator_key(client, ["*:*"])
    keys = [key]
    async with sending(read_key=lambda: keys[0]):
        client.revoke_key(first, reason="no_longer_used")
        await until(lambda: any("wait in the log of the authority" in m for m in caplog.messages))
        missed = change(client)
        second, keys[0] = operator_key(client, list(RIGHTS))
        await until_taken(hooks, missed)
        _, keys[0] = operator_key(client, list(RIGHTS))
        await until(lambda: "the operator key is replaced" in caplog.messages)
        client.revoke_key(second, reason="no_longer_used")
        later = change(client)
        await until_taken(hooks, later)
    assert {1} == set(hooks.taken.values())


async def test_lost_connection_loses_no_change(
    sending: Sending,
    client: Client,
    hooks: Receiver,
    key_authority: Authority,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A connection that hangs is noticed, and the next one goes on from the position."""
    monkeypatch.setattr(follow, "RETRY_MAX", 0.05)
    monkeypatch.setattr(follow, "SILENCE_MAX", 1.0)
    way = Proxy(key_authority.address)
    with way.running():
        connect: Callable[[Any], AsyncClient] = lambda key: AsyncClient(  # noqa: E731
            way.address, operator_key=key, timeout=0.5
        )
        async with sending(connect=connect):
            before = change(client)
            await until_taken(hooks, before)
            way.hang()
            missed = [change(client) for _ in range(3)]
            await until_taken(hooks, *missed)
    assert {1} == set(hooks.taken.values())


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        ({"log_id": str(uuid.UUID(int=1 << 64))}, "is gone: it was restored"),
        ({"revision": 1 << 40}, "the log of the authority ends before the cursor"),
    ],
)
async def test_cursor_of_a_lost_log_is_reported_and_events_begin_with_now(
    sending: Sending,
    client: Client,
    hooks: Receiver,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    lost: dict[str, Any],
    reason: str,
) -> None:
    """As after a restore; a pending event is still delivered, and the next start is quiet."""
    monkeypatch.setattr(follow, "RETRY_MAX", 0.05)
    before = change(client)
    log_id, _, revision = before.rpartition("-")
    await write_position(tmp_path / "cursor", Position(log_id, int(revision) - 1)._replace(**lost))
    async with sending():
        await until_taken(hooks, change(client))
    assert before not in hooks.taken
    (line,) = [message for message in caplog.messages if reason in message]
    assert "are not sent; events begin" in line
    caplog.clear()
    missed = change(client)
    async with sending():
        await until_taken(hooks, missed)
    assert not [message for message in caplog.messages if "not sent" in message]


UPDATE = WatchUpdate(
    changes=(),
    revision=500_000,
    log_id="log",
    checkpoint=False,
    resync=True,
    server_time=datetime(2026, 1, 1, tzinfo=UTC),
    lag=timedelta(0),
)
REVISION_AHEAD = error(ErrorReason.REVISION_AHEAD, "from_revision is beyond the newest change")


class Scripted:
    """A client whose watches deliver these updates."""

    def __init__(self, streams: list[Any]) -> None:
        self.streams = streams
        self.started: list[int | None] = []

    async def __aenter__(self) -> Scripted:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Stay open."""

    async def get_caller(self) -> Any:
        """Return a caller with every right."""
        return type("Caller", (), {"permissions": ("*:*",)})

    @asynccontextmanager
    async def watch_changes(self, *, from_revision: int | None, log_id: str) -> AsyncIterator[Any]:
        """Deliver the next script; after the last one, nothing."""
        self.started.append(from_revision)

        async def updates() -> AsyncIterator[WatchUpdate]:
            for update in self.streams.pop(0) if self.streams else []:
                if isinstance(update, KeyAuthorityError):
                    raise update
                yield update

        yield updates()


async def test_cursor_too_far_behind_is_reported_and_a_slow_reader_is_not(
    given: dict[str, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first message says whether the position can be replayed; a later resync is repeated."""
    monkeypatch.setattr(follow, "RETRY_MAX", 0.001)
    heard = dataclasses.replace(UPDATE, revision=600_000, checkpoint=True, resync=False)
    client: Any = Scripted([[UPDATE], [heard, dataclasses.replace(heard, resync=True)], [heard]])
    with Journal(None) as journal:
        box = Outbox(journal)
        box.take(Position("log", 7), ())
        following = Follower(Settings(**{**given, "connect": lambda key: client}), box)
        task = asyncio.create_task(following.follow())
        await until(lambda: 3 < len(client.started))
        task.cancel()
    assert [7, 500_000, 600_000, 600_000] == client.started[:4]
    lost = [message for message in caplog.messages if "not sent" in message]
    assert ["the cursor is further behind than the authority sends changes again"] == [
        message.partition(";")[0] for message in lost
    ]
    assert "after revision 7 are not sent; events begin after revision 500000" in lost[0]


async def test_server_that_is_behind_catches_up(
    given: dict[str, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several servers the next may know fewer changes for a moment: nothing is lost by it."""
    monkeypatch.setattr(follow, "RETRY_MAX", 0.001)
    heard = dataclasses.replace(UPDATE, revision=8, checkpoint=True, resync=False)
    client: Any = Scripted([*[[REVISION_AHEAD]] * 5, [heard]])
    with Journal(None) as journal:
        box = Outbox(journal)
        box.take(Position("log", 7), ())
        following = Follower(Settings(**{**given, "connect": lambda key: client}), box)
        task = asyncio.create_task(following.follow())
        await until(lambda: 6 < len(client.started))
        task.cancel()
    assert [*[7] * 6, 8] == client.started[:7]
    assert not caplog.messages


async def test_full_outbox_leaves_changes_in_the_log_and_loses_none(
    sending: Sending, client: Client, hooks: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory and file are bounded while the receiver takes nothing, also after a new start."""
    monkeypatch.setattr(outbox, "BYTES_MAX", 8000)
    monkeypatch.setattr(follow, "RETRY_MAX", 0.05)
    taken, full = list[int](), asyncio.Event()
    monkeypatch.setattr(follow, "event_of_change", watched(taken))
    wait_for_room = Outbox.wait_for_room

    async def wait(box: Outbox) -> None:
        full.set()
        await wait_for_room(box)

    monkeypatch.setattr(Outbox, "wait_for_room", wait)
    released = threading.Event()
    hooks.answer = lambda event_id, number: Reply(wait=released.wait)
    async with sending():
        ids = [change(client) for _ in range(30)]
        await until(full.is_set)
        held = len(taken)
        threading.Timer(0.1, released.set).start()
    assert 6 <= held < 40  # of 60 changes
    hooks.answer = lambda event_id, number: OK
    async with sending():
        await until_taken(hooks, *ids)
    assert {1} == set(hooks.taken.values())


def watched(taken: list[int]) -> Callable[[str, Change], Event]:
    """Return `event_of_change` that keeps the revisions of its changes."""

    def event(log_id: str, changed: Change) -> Event:
        taken.append(changed.revision)
        return event_of_change(log_id, changed)

    return event
