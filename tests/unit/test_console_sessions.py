"""Sessions of the console: idle and longest time, one-time links, secrets that were shown."""

from __future__ import annotations

import pytest

from keyauthority import AsyncClient
from keyauthority.console import sessions as module
from keyauthority.console.sessions import Session, Sessions, ShownSecrets


class Time:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        """The time."""
        return self.seconds


@pytest.fixture
def time() -> Time:
    """A clock of the test's own."""
    return Time()


@pytest.fixture
def sessions(time: Time) -> Sessions:
    """No session yet."""
    return Sessions(lambda key: AsyncClient(operator_key=key), time)


async def start(sessions: Sessions) -> Session:
    """Start a session."""
    return await sessions.start(sessions.client(None), "KA")


async def test_session_ends_after_30_idle_minutes(sessions: Sessions, time: Time) -> None:
    """Each request starts them again; a live update does not."""
    session = await start(sessions)
    time.seconds += 29 * 60
    assert await sessions.find(session.id) is session
    time.seconds += 29 * 60
    assert await sessions.find(session.id, touch=False) is session
    time.seconds += 60
    assert not sessions.is_live(session)
    assert await sessions.find(session.id) is None


async def test_session_ends_after_12_hours(sessions: Sessions, time: Time) -> None:
    """Even if it is used all the time."""
    session = await start(sessions)
    for _ in range(12 * 4 - 1):
        time.seconds += 15 * 60
        assert await sessions.find(session.id) is session
    time.seconds += 15 * 60
    assert await sessions.find(session.id) is None


def test_link_works_once_within_10_minutes(sessions: Sessions, time: Time) -> None:
    """A new link ends the one before."""
    first = sessions.new_link_token()
    second = sessions.new_link_token()
    assert not sessions.use_link(first)
    time.seconds += 599
    assert sessions.use_link(second)
    assert not sessions.use_link(second)
    assert not sessions.use_link("")
    third = sessions.new_link_token()
    time.seconds += 600
    assert not sessions.use_link(third)


async def test_oldest_session_ends_for_a_new_one_beyond_the_limit(
    sessions: Sessions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory of the process is bounded."""
    monkeypatch.setattr(module, "SESSIONS_MAX", 2)
    first, second = await start(sessions), await start(sessions)
    await sessions.find(first.id)
    third = await start(sessions)
    found = [await sessions.find(session.id) for session in (first, second, third)]
    assert found == [first, None, third]


def test_form_token_belongs_to_one_session(sessions: Sessions) -> None:
    """Another session's is not accepted, nor one of another process."""
    assert sessions.is_csrf_token("a", sessions.csrf_token("a"))
    assert not sessions.is_csrf_token("b", sessions.csrf_token("a"))
    assert not sessions.is_csrf_token("a", "")
    other = Sessions(lambda key: AsyncClient(operator_key=key))
    assert not sessions.is_csrf_token("a", other.csrf_token("a"))


async def test_session_shows_no_secret_in_its_representation(sessions: Sessions) -> None:
    """Its id is a credential."""
    session = await start(sessions)
    assert session.id not in repr(session)


def test_shown_secrets_are_remembered_for_a_day(time: Time) -> None:
    """As long as the authority repeats an answer."""
    shown = ShownSecrets(time)
    shown.use_mark(shown.new_mark("first"))
    assert shown.was_shown("first")
    time.seconds += 86_399
    shown.use_mark(shown.new_mark("second"))
    assert shown.was_shown("first")
    time.seconds += 2
    shown.use_mark(shown.new_mark("third"))
    assert [shown.was_shown(one) for one in ("first", "second", "third")] == [False, True, True]


def test_mark_is_used_once_and_unknown_ones_are_ignored(time: Time) -> None:
    """No request can mark another request's secret."""
    shown = ShownSecrets(time)
    mark = shown.new_mark("first")
    shown.use_mark("unknown")
    assert not shown.was_shown("first")
    shown.use_mark(mark)
    shown.use_mark(mark)
    assert shown.was_shown("first")
