"""The sans-IO watch session: resuming, deltas, and the age of its state."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from keyauthority.model import Change, ChangeType
from keyauthority.results import WatchUpdate
from keyauthority.watch import (
    REMEASURE_SECONDS,
    RENEW_SECONDS,
    SLACK_MAX,
    ResumePoint,
    WatchSession,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
AHEAD = 1_000.0  # the server's clock less ours
LOG = "log"


def update(
    sent: float,
    revision: int,
    *revisions: int,
    checkpoint: bool = True,
    resync: bool = False,
    log_id: str = LOG,
    lag: float = 0.0,
) -> WatchUpdate:
    """A message that the server sent at a moment of our clock."""
    time = EPOCH + timedelta(seconds=sent + AHEAD)
    return WatchUpdate(
        changes=tuple(
            Change(revision=one, time=time, type=ChangeType.KEY_UPDATED, project_id="")
            for one in revisions
        ),
        revision=revision,
        log_id=log_id,
        checkpoint=checkpoint,
        resync=resync,
        server_time=time,
        lag=timedelta(seconds=lag),
    )


def watching(revision: int = 5) -> WatchSession:
    """A session that was opened at 10 and received a checkpoint at once."""
    session = WatchSession()
    session.resume(10.0)
    session.receive(update(10.0, revision), 10.0)
    return session


def test_first_stream_begins_now() -> None:
    """There is no earlier state to resume."""
    assert ResumePoint(None, "") == WatchSession().resume(10.0)


def test_next_stream_resumes_at_the_last_position() -> None:
    """Nothing is missed after a stream has ended."""
    session = watching()
    session.receive(update(11.0, 7, 6, 7), 11.0)
    assert ResumePoint(7, LOG) == session.resume(12.0)


def test_repeated_changes_are_delivered_once() -> None:
    """An overlapping message yields only its new changes."""
    told = watching().receive(update(11.0, 7, 4, 5, 6, 7), 11.0)
    assert [6, 7] == [change.revision for change in told.changes]


def test_stream_cut_between_checkpoints_resumes_after_the_last_change() -> None:
    """Changes are ordered, so all earlier ones were delivered."""
    session = watching()
    session.receive(update(11.0, 6, 6, checkpoint=False), 11.0)
    assert ResumePoint(6, LOG) == session.resume(12.0)


def test_resync_starts_over() -> None:
    """All earlier state may be wrong, and nothing proves it fresh."""
    session = watching()
    told = session.receive(update(11.0, 0, resync=True), 11.0)
    assert told.reset
    assert ResumePoint(None, "") == session.resume(12.0)
    assert session.fresh_until(1e9) < 0


def test_other_log_starts_over() -> None:
    """A server restored from another backup has another log."""
    told = watching().receive(update(11.0, 3, log_id="other"), 11.0)
    assert told.reset


def test_freshness_counts_from_the_sending() -> None:
    """A message in flight for three seconds proves the state of three seconds ago."""
    session = watching()
    session.receive(update(20.0, 5), 23.0)
    assert 22.0 == session.fresh_until(2.0)


def test_server_lag_reduces_freshness() -> None:
    """A server that is behind proves an older state."""
    session = watching()
    session.receive(update(20.0, 5, lag=0.5), 20.0)
    assert 21.5 == session.fresh_until(2.0)


def test_message_without_a_checkpoint_proves_nothing() -> None:
    """Only a checkpoint states that all changes were delivered."""
    session = watching()
    session.receive(update(20.0, 6, 6, checkpoint=False), 20.0)
    assert 12.0 == session.fresh_until(2.0)


def test_server_time_is_never_early() -> None:
    """A stream that took 0.2 s to begin makes the server's clock seem that late."""
    session = WatchSession()
    session.resume(10.0)
    session.receive(update(10.2, 5), 10.3)
    assert EPOCH + timedelta(seconds=30.2 + AHEAD) == session.server_time(30.0)


def test_server_time_never_runs_back() -> None:
    """An expired key stays expired if another server's clock is a second behind."""
    session = watching()
    first = session.server_time(12.0)
    session.resume(12.0)
    behind = update(12.0, 5)
    session.receive(
        WatchUpdate(
            changes=(),
            revision=behind.revision,
            log_id=LOG,
            checkpoint=True,
            resync=False,
            server_time=behind.server_time - timedelta(seconds=1),
            lag=timedelta(0),
        ),
        12.0,
    )
    assert first == session.server_time(12.0)
    assert 14.0 == session.fresh_until(2.0)


def test_clock_offset_is_measured_again() -> None:
    """Clocks drift, and a slow start gives a poor measurement."""
    session = watching()
    assert not session.due(10.0 + RENEW_SECONDS)
    assert session.due(10.1 + RENEW_SECONDS)
    session.resume(20.0)
    session.receive(update(20.0, 5), 20.1 + SLACK_MAX)
    assert not session.due(20.0 + REMEASURE_SECONDS)
    assert session.due(20.1 + REMEASURE_SECONDS)


def test_slow_server_is_measured_less_often() -> None:
    """A thousand watchers measuring each second would keep it slow."""
    session, opened = watching(), 20.0
    waits = []
    for _ in range(3):
        session.resume(opened)
        session.receive(update(opened, 5), opened + 1.0)
        waits.append(next(wait for wait in (1.5, 3.0, 6.0) if session.due(opened + wait)))
        opened += 10.0
    assert [1.5, 3.0, 6.0] == waits


def test_log_change_before_a_checkpoint_starts_over() -> None:
    """The changes of the first log are discarded."""
    session = WatchSession()
    session.resume(10.0)
    session.receive(update(10.0, 6, 6, checkpoint=False), 10.0)
    assert ResumePoint(6, LOG) == session.resume(11.0)
    assert session.receive(update(11.0, 9, log_id="other"), 11.0).reset


def test_wrong_server_time_is_corrected_by_the_next_measurement() -> None:
    """One server is 50 minutes ahead; the next stream goes to a correct one."""
    session = watching()
    right = session.server_time(11.0)
    session.resume(12.0)
    wrong = update(12.0, 5)
    ahead = replace(wrong, server_time=wrong.server_time + timedelta(minutes=50))
    session.receive(ahead, 12.0)
    assert session.server_time(12.0) > right + timedelta(minutes=49)
    session.resume(13.0)
    session.receive(update(13.0, 5), 13.0)
    assert EPOCH + timedelta(seconds=AHEAD + 14.0) == session.server_time(14.0)
