"""Advisories: each that opens is one event, also over a new start; those of before are none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keyauthority import Advisory, AdvisoryType, Client, Unavailable
from keyauthority.errors import Unimplemented
from keyauthority.notify import advisories
from keyauthority.notify.advisories import AdvisoryLooker
from keyauthority.notify.events import event_of_advisory, identity_of_advisory
from keyauthority.notify.journal import Journal
from keyauthority.notify.outbox import Outbox, Position
from keyauthority.notify.settings import Settings
from keyauthority.results import Page
from tests.notify.conftest import SECRET, Sending
from tests.notify.receiver import Receiver
from tests.unit.waiting import until

SINCE = datetime(2026, 11, 30, 21, 45, 53, 491888, UTC)
CANARY = Advisory(
    type=AdvisoryType.CANARY_USED,
    access_key="KA0DGFDMJGBMEHDDX39V",
    project_id="7ef39b2b-2500-44cc-9717-549c8ed47d7e",
    since_time=SINCE,
    last_peer="192.0.2.7",
)


def opened(hooks: Receiver) -> dict[str, Any]:
    """Return the events of advisories by their access keys; fails for one that came twice."""
    found: dict[str, Any] = {}
    for request in hooks.requests:
        if request.event["type"] == "advisory.opened":
            request.verify(SECRET)
            key = request.event["data"]["accessKey"]
            assert key not in found
            found[key] = request
    return found


def test_identity_has_log_type_key_and_start() -> None:
    """No full stop is in it, as Standard Webhooks demands."""
    expected = "log-CANARY_USED-KA0DGFDMJGBMEHDDX39V-2026-11-30T21:45:53Z"
    assert expected == event_of_advisory("log", CANARY).id


async def test_advisory_that_opens_is_one_event(
    sending: Sending, client: Client, hooks: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that are open at the first start are none; a new start repeats none."""
    monkeypatch.setattr(advisories, "LOOK_SECONDS", 0.05)
    project = client.create_project("Shop").project_id

    def unrestricted() -> str:
        return client.create_key(project, mode="live", kind="secret").key.access_key

    before = unrestricted()
    async with sending():
        first = unrestricted()
        await until(lambda: first in opened(hooks))
    stopped = unrestricted()
    async with sending():
        later = unrestricted()
        await until(lambda: {stopped, later} <= opened(hooks).keys())
    found = opened(hooks)
    assert before not in found
    event = found[first].event
    assert "ADVISORY_TYPE_UNRESTRICTED" == event["data"]["type"]
    assert event["timestamp"] == event["data"]["sinceTime"]
    since = event["timestamp"][:19]
    assert f"{event['data']['logId']}-UNRESTRICTED-{first}-{since}Z" == found[first].id


class Listing:
    """A client whose looks find these advisories, or fail."""

    def __init__(self, looks: list[Any]) -> None:
        self.looks = looks
        self.look: Any = ()
        self.done = 0
        self.asked: set[AdvisoryType] = set()

    async def __aenter__(self) -> Listing:
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Stay open."""

    def list_advisories(self, types: Collection[AdvisoryType], page_size: int) -> Listing:
        """Return the next look; the last one stays. A look asks for each type once."""
        assert page_size <= 1000
        look = self.looks[min(self.done, len(self.looks) - 1)]
        self.look = look
        if not isinstance(look, Exception):
            self.look = [one for one in look if one.type in types]
        self.asked |= set(types)
        if self.asked == set(AdvisoryType) or isinstance(look, Exception):
            self.done, self.asked = self.done + 1, set()
        return self

    async def page(self, page_token: str) -> Page[Advisory]:
        """Return one advisory a page."""
        if isinstance(self.look, Exception):
            raise self.look
        index = int(page_token or 0)
        is_last = index + 1 >= len(self.look)
        return Page(tuple(self.look[index : index + 1]), "" if is_last else str(index + 1))


@asynccontextmanager
async def looking(
    given: dict[str, Any], looks: list[Any], path: Path | None = None
) -> AsyncIterator[tuple[Outbox, AdvisoryLooker]]:
    """Make all these looks."""
    client: Any = Listing(looks)
    with Journal(path) as journal:
        box = Outbox(journal)
        box.take(Position("log", 1), ())
        looker = AdvisoryLooker(Settings(**{**given, "connect": lambda key: client}), box)
        started = asyncio.Event()
        started.set()
        task = asyncio.create_task(looker.follow(started))
        await until(lambda: client.done > len(looks) or task.done())
        task.cancel()
        yield box, looker


def pending(box: Outbox) -> list[str]:
    """Return the pending events, without the log."""
    found = []
    while (one := box.next_new()) is not None:
        found.append(one.event.id.removeprefix("log-"))
    return found


def advisory(number: int, start: timedelta = timedelta(0)) -> Advisory:
    """Return one of many."""
    key = f"KA{number:018}"
    return Advisory(
        type=AdvisoryType.DORMANT, access_key=key, project_id="", since_time=SINCE + start
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Looks without a pause, for looks of the test's own."""
    if "given" in request.fixturenames and "sending" not in request.fixturenames:
        monkeypatch.setattr(advisories, "LOOK_SECONDS", 0)
        monkeypatch.setattr(advisories, "RETRY_SECONDS", 0)


async def test_closed_advisory_that_opens_again_is_an_event(given: dict[str, Any]) -> None:
    """With another start it has another identity; one that stays open is no event again."""
    one, two, again = advisory(1), advisory(2), advisory(2, timedelta(hours=1))
    async with looking(given, [[one], [one, two], [one, two], [one], [one, again]]) as (box, _):
        assert [
            f"DORMANT-{two.access_key}-2026-11-30T21:45:53Z",
            f"DORMANT-{two.access_key}-2026-11-30T22:45:53Z",
        ] == pending(box)


async def test_failed_look_opens_and_closes_nothing(
    given: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """The first look that succeeds decides what was open before."""
    one, two = advisory(1), advisory(2)
    down = Unavailable("no connection")
    async with looking(given, [down, [one], down, down, [one], [one, two]]) as (box, looker):
        assert looker.ready.is_set()
        assert [two.access_key in event for event in pending(box)] == [True]
    assert [True, True] == ["looked at later" in message for message in caplog.messages]


async def test_authority_without_advisories_is_reported_once(
    given: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """An older server; changes are sent, and the command is ready."""
    missing = Unimplemented("unknown service")
    async with looking(given, [missing] * 3) as (box, looker):
        assert looker.ready.is_set()
        assert [] == pending(box)
    assert ["advisories are not sent: unknown service"] == caplog.messages


async def test_open_advisories_survive_a_start(given: dict[str, Any], tmp_path: Path) -> None:
    """They are in the cursor file, written whole or extended."""
    path, one, two = tmp_path / "cursor", advisory(1), advisory(2)
    async with looking(given, [[one], [one, two]], path) as (box, _):
        assert 1 == len(box)
    for _ in range(2):
        async with looking(given, [[one, two], [one, two]], path) as (box, _):
            assert 1 == len(box)
            box.take(Position("log", 2), ())
            await box.flush()


async def test_number_of_remembered_advisories_is_bounded(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The rest is named in the log, and those remembered are not repeated."""
    monkeypatch.setattr(advisories, "OPEN_MAX", 3)
    many = [advisory(number) for number in range(6)]
    async with looking(given, [[], many, many]) as (box, _):
        assert 3 == len(pending(box)) == len(box.advisories or ())
    assert any("more than 3 advisories are open" in message for message in caplog.messages)


async def test_many_keys_at_rest_hide_no_key_in_use(
    given: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A decoy that is younger than too many dormant keys is sent when it is presented."""
    monkeypatch.setattr(advisories, "OPEN_MAX", 3)
    many = [advisory(number) for number in range(6)]
    used = replace(advisory(7), type=AdvisoryType.CANARY_USED)
    async with looking(given, [many, [*many, used], [*many, used]]) as (box, _):
        assert [identity_of_advisory(used)] == pending(box)
