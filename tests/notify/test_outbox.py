"""The outbox and its file: the schedule, the bounds, and every state that a kill can leave."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from keyauthority.notify import journal as journals
from keyauthority.notify import outbox as outboxes
from keyauthority.notify.events import Event
from keyauthority.notify.journal import Journal
from keyauthority.notify.outbox import JITTER, Outbox, Pending, Position
from keyauthority.notify.settings import CannotNotify, CursorFailed

LOG: Final = "0b6f4a34-31ac-4d75-8b2a-02a9a3f9a7b1"
SCHEDULE: Final = (5, 5 * 60, 30 * 60, *(hours * 3600 for hours in (2, 5, 10, 14, 20, 24)))
"""The waits between the ten attempts of Standard Webhooks 1.0."""


class Time:
    """A clock that the test moves, in place of the boot clock and the wall clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr("keyauthority.clock.monotonic", lambda: self.now)
        monkeypatch.setattr(outboxes, "monotonic", lambda: self.now)
        monkeypatch.setattr("keyauthority.clock.SystemClock._measured", lambda _: 1.8e9)


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    """The clock of the outbox."""
    return Time(monkeypatch)


@contextmanager
def opened(path: Path | None) -> Iterator[Outbox]:
    """Give the outbox of a cursor file."""
    with Journal(path) as journal:
        yield Outbox(journal)


def events(first: int, last: int, size: int = 1) -> list[Event]:
    """Return events of the revisions from `first` to `last`."""
    return [Event(f"{LOG}-{number}", "x" * size) for number in range(first, last + 1)]


def take(outbox: Outbox, first: int, last: int, size: int = 1) -> None:
    """Take the events of these revisions."""
    outbox.take(Position(LOG, last), events(first, last, size))


def waiting(outbox: Outbox) -> list[tuple[str, int]]:
    """Return the revision and the attempts of each event that can be attempted now."""
    found: list[Pending] = []
    for get in (outbox.next_new, outbox.next_retry):
        while (pending := get()) is not None:
            found.append(pending)
    return [(pending.event.id.rpartition("-")[2], pending.attempts) for pending in found]


def new(outbox: Outbox) -> Pending:
    """Return the oldest new event."""
    pending = outbox.next_new()
    assert pending
    return pending


def test_attempts_follow_the_schedule_of_standard_webhooks(time: Time) -> None:
    """Ten attempts over three days, each wait longer by a jitter of at most a tenth."""
    with opened(None) as outbox:
        take(outbox, 1, 1)
        pending = new(outbox)
        for delay in SCHEDULE:
            assert outbox.failed(pending, None)
            assert outbox.next_due is not None
            assert delay <= outbox.next_due - time.now <= delay * (1 + JITTER)
            time.now = outbox.next_due - 0.001
            assert outbox.next_retry() is None
            time.now += 0.002
            assert outbox.next_retry() is pending
        assert not outbox.failed(pending, None)
        assert 0 == len(outbox)


@pytest.mark.parametrize(("asked", "least"), [(2.0, 5), (60.0, 60), (1e9, 86_400)])
def test_retry_after_prolongs_a_wait_within_a_day(time: Time, asked: float, least: int) -> None:
    """It never shortens one, and a receiver cannot ask for years."""
    with opened(None) as outbox:
        take(outbox, 1, 1)
        outbox.failed(new(outbox), asked)
        assert outbox.next_due is not None
        assert least <= outbox.next_due - time.now <= least * (1 + JITTER)


def test_retries_are_spread_by_a_jitter(time: Time) -> None:
    """Events that failed together are not sent again together."""
    with opened(None) as outbox:
        take(outbox, 1, 50)
        for _ in range(50):
            outbox.failed(new(outbox), None)
        dues = {due for due, _, _ in outbox._retries}
        assert 25 < len(dues)


async def test_state_survives_a_start(time: Time, tmp_path: Path) -> None:
    """Position, events, attempts and the rest of a wait."""
    path = tmp_path / "cursor"
    for _ in range(2):  # from a file that is extended, then from one that was written whole
        with opened(path) as outbox:
            if not len(outbox):
                take(outbox, 1, 4)
                outbox.delivered(new(outbox))
                outbox.failed(new(outbox), None)
            else:
                take(outbox, 5, 5)
            await outbox.flush()
        time.now += 2.0
    with opened(path) as outbox:
        assert Position(LOG, 5) == outbox.position
        assert [("3", 0), ("4", 0), ("5", 0)] == waiting(outbox)
        time.now += 2.0  # 6 s after the failure
        assert [("2", 1)] == waiting(outbox)


async def test_retry_waits_at_most_a_day_after_the_clock_was_set_back(
    time: Time, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has times of the wall clock."""
    with opened(tmp_path / "cursor") as outbox:
        take(outbox, 1, 1)
        outbox.failed(new(outbox), None)
        await outbox.flush()
    monkeypatch.setattr("keyauthority.clock.SystemClock._measured", lambda _: 1.7e9)
    with opened(tmp_path / "cursor") as outbox:
        assert outbox.next_due is not None
        assert outbox.next_due - time.now <= 86_400


async def test_file_cut_anywhere_holds_a_state_that_was_whole(tmp_path: Path) -> None:
    """A kill or a loss of power leaves a part of the last line; no event and position disagree."""
    path = tmp_path / "cursor"
    with opened(path) as outbox:
        outbox.take(Position(LOG, 0), ())
        await outbox.flush()
        first_line = path.stat().st_size
        take(outbox, 1, 3)
        await outbox.flush()
    whole = path.read_bytes()
    for size in range(first_line, len(whole), 3):
        path.write_bytes(whole[:size])
        with opened(path) as outbox:
            revision = outbox.position.revision if outbox.position else -1
            assert (revision, len(outbox)) in ((0, 0), (3, 3)), size
    path.write_bytes(whole)
    with opened(path) as outbox:
        assert 3 == len(outbox)


async def test_file_stays_in_proportion_to_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Delivered events leave no trace for ever; the control never rewrites the file."""
    path = tmp_path / "cursor"

    async def largest() -> int:
        found = 0
        with opened(path) as outbox:
            for number in range(1, 150):
                take(outbox, number, number, 1000)
                await outbox.flush()
                outbox.delivered(new(outbox))
                await outbox.flush()
                found = max(found, path.stat().st_size)
        return found

    monkeypatch.setattr(journals, "GARBAGE_MIN", 50_000)
    assert await largest() < 60_000
    monkeypatch.setattr(journals, "GARBAGE_MIN", 1 << 30)
    assert 150_000 < await largest()


async def test_full_outbox_takes_no_more_until_an_event_is_delivered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its memory is bounded, and changes wait in the log of the authority."""
    monkeypatch.setattr(outboxes, "BYTES_MAX", 3000)
    with opened(None) as outbox:
        take(outbox, 1, 2, 1000)
        assert outbox.is_full
        waiting_for_room = asyncio.create_task(outbox.wait_for_room())
        await asyncio.sleep(0)
        assert not waiting_for_room.done()
        outbox.delivered(new(outbox))
        await asyncio.wait_for(waiting_for_room, 5)
        assert not outbox.is_full


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"a shopping list\n", "is no cursor file of this program"),
        (b'["keyauthority notify",2]\n', "is no cursor file of this program"),
        (b'[["keyauthority notify",1]]\n[[\n[]\n', "is damaged: remove it"),
        (b'[["keyauthority notify",1]]\n[["done","1"]]\n[]\n', "is damaged: remove it"),
        (b'[["keyauthority notify",1],["leap",1]]\n', "is damaged: remove it"),
    ],
)
def test_other_file_is_refused_and_left_as_it_is(
    tmp_path: Path, content: bytes, reason: str
) -> None:
    """A mistyped path must not cost a file, and a damaged one no event in silence."""
    path = tmp_path / "cursor"
    path.write_bytes(content)
    with pytest.raises(CannotNotify, match=reason), opened(path):
        pass
    assert content == path.read_bytes()


OWN: Final = b'[["keyauthority notify",1]]\n'


@pytest.mark.parametrize(
    ("owner", "mode", "reason"),
    [
        pytest.param(
            *(65534, 0o600, "belongs to another user"),
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
        ),
        (-1, 0o602, "can be written by other users"),
        pytest.param(
            *(-1, 0o620, "can be written by other users"),
            marks=pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
        ),
    ],
)
def test_file_that_others_may_have_written_is_refused(
    tmp_path: Path, owner: int, mode: int, reason: str
) -> None:
    """Its events would be signed."""
    path = tmp_path / "cursor"
    path.write_bytes(OWN)
    os.chown(path, owner, 65534 if os.geteuid() == 0 else -1)
    path.chmod(mode)
    with pytest.raises(CannotNotify, match=reason), opened(path):
        pass


def test_file_of_the_own_group_and_a_pipe(tmp_path: Path) -> None:
    """Kubernetes gives a volume's files to the group of the pod; a pipe is no file."""
    path = tmp_path / "cursor"
    path.write_bytes(OWN)
    path.chmod(0o660)
    with opened(path):
        pass
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(CannotNotify, match="is not a regular file"), opened(path):
        pass


def test_empty_file_is_a_new_one(tmp_path: Path) -> None:
    """As `mktemp` makes it."""
    (tmp_path / "cursor").touch()
    with opened(tmp_path / "cursor") as outbox:
        assert outbox.position is None


def test_second_process_is_refused(tmp_path: Path) -> None:
    """Two would write into one file."""
    refused = pytest.raises(CursorFailed, match="another process uses")
    with opened(tmp_path / "cursor"), refused, opened(tmp_path / "cursor"):
        pass
    with opened(tmp_path / "cursor"):
        pass


@pytest.mark.parametrize("call", ["write", "fdatasync", "fsync"])
async def test_failed_write_ends_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """After a failed sync the file cannot be trusted; the next start reads the last good state."""
    path = tmp_path / "cursor"

    def fail(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    with opened(path) as outbox:
        take(outbox, 1, 1)
        await outbox.flush()
        if call == "fsync":  # of a file that is written whole
            monkeypatch.setattr(journals, "GARBAGE_MIN", -1 << 30)
        take(outbox, 2, 2)
        with monkeypatch.context() as broken:
            broken.setattr(os, call, fail)
            with pytest.raises(CursorFailed, match="No space left on device"):
                await outbox.flush()
    with opened(path) as outbox:
        assert outbox.position in (Position(LOG, 1), Position(LOG, 2))
        assert outbox.position.revision == len(outbox)


async def test_callers_at_the_same_time_share_a_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sync takes milliseconds, and deliveries are concurrent."""
    syncs: list[int] = []
    real = os.fdatasync

    def counted(file: int) -> None:
        syncs.append(file)
        real(file)

    monkeypatch.setattr(os, "fdatasync", counted)
    with opened(tmp_path / "cursor") as outbox:
        outbox.take(Position(LOG, 0), ())
        await outbox.flush()
        take(outbox, 1, 100)
        await outbox.flush()
        before = len(syncs)
        done = [new(outbox) for _ in range(100)]

        async def deliver(pending: Pending) -> None:
            outbox.delivered(pending)
            await outbox.flush()

        await asyncio.gather(*map(deliver, done))
        assert len(syncs) - before <= 2


@pytest.mark.parametrize("is_link", [True, False])
async def test_cursor_file_is_written_into_no_file_of_another(
    tmp_path: Path, *, is_link: bool
) -> None:
    """In a folder that others may write, its next name may be taken by a link or their file."""
    path, other = tmp_path / "cursor", tmp_path / "other"
    other.write_text("untouched")
    other.chmod(0o666)
    new = tmp_path / "cursor.new"
    if is_link:
        new.symlink_to(other)
    else:
        new.hardlink_to(other)
    with Journal(path) as journal:
        Outbox(journal).take(Position("log", 1), [])
        await journal.flush(list)
    assert "untouched" == other.read_text()
    assert (0o600, False) == (path.stat().st_mode & 0o777, path.is_symlink())
