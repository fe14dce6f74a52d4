"""Work that grows with a call, or with all calls of a second, is shared with other calls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, cast
from unittest.mock import AsyncMock, Mock

import pytest

from keyauthority.model import Facts, Key, KeyKind, KeyMode, Revision, UsageRow, VerdictCode
from keyauthority.permissions import narrowest
from keyauthority.requests import EventQuery, KeyObservation, UsageReport, VerifyQuery
from keyauthority_server.metering import usage as metering
from keyauthority_server.services import audit, time_slices, usage
from keyauthority_server.services.cached_verification import CachedVerification
from keyauthority_server.services.time_slices import Slices, TimeSlices
from keyauthority_server.services.usage import Usage
from keyauthority_server.services.verification import Verification, _Evaluation
from keyauthority_server.store.types import StoredKey

NOW = datetime(2030, 1, 1, tzinfo=UTC)
KEY = Key(
    access_key="KA7Q2M9X4T8B3N6W5R1P",
    project_id="00000000-0000-4000-8000-000000000000",
    mode=KeyMode.LIVE,
    kind=KeyKind.RESTRICTED,
    permissions=("orders.*:read",),
    create_time=NOW,
    update_time=NOW,
    revision=1,
)
ASKED = tuple(f"orders.a{number}:read" for number in range(20))


@pytest.fixture(autouse=True)
def _every_item_ends_a_slice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time_slices, "SLICE_SECONDS", 0.0)
    monkeypatch.setattr(metering, "USES_SECONDS", -1.0)


async def turns_of(work: Coroutine[Any, Any, Any]) -> tuple[int, Any]:
    """Return the turns of the loop that other tasks had meanwhile, and the result."""
    running, turns = asyncio.create_task(work), 0
    while not running.done():
        await asyncio.sleep(0)
        turns += 1
    return turns, await running


async def test_reported_permissions_of_a_key_are_judged_once_and_in_slices(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not again for each row: a report of 1,000 rows held a worker for nine seconds."""
    judged = Mock(side_effect=narrowest)
    monkeypatch.setattr(usage, "narrowest", judged)
    row = UsageRow(
        access_key=KEY.access_key,
        verdict=VerdictCode.VALID,
        bucket_time=NOW,
        last_used_time=NOW,
        count=1,
        cost=1,
    )
    observation = KeyObservation(access_key=KEY.access_key, permissions=ASKED)
    report = UsageReport(batch_id="", rows=(row,) * 50, observations=(observation,))
    service = Usage(Mock(), TimeSlices())
    turns, observed = await turns_of(service._observed([(row, KEY)] * 50, report))
    assert len(ASKED) == judged.call_count
    assert turns > len(ASKED)
    assert [(KEY.access_key, "orders.*:read", NOW)] == list(observed.permissions)


async def test_verdicts_of_a_batch_are_counted_in_slices() -> None:
    """A count finds the grants that many permissions use."""
    service = Verification(Mock(), Mock(), Mock())
    query = VerifyQuery("x", facts=Facts(permissions=ASKED))
    one = _Evaluation(query, Mock(code=VerdictCode.VALID), Mock(spec=StoredKey, key=KEY), ())
    turns, verdicts = await turns_of(service._apply_limits([one] * 20, NOW, ""))
    assert 20 == len(verdicts)
    assert turns > 20


class OverAfter:
    """Slices, of which the first is over after so many items."""

    def __init__(self, items: int) -> None:
        self._left = items
        self.pauses = 0

    def are_over(self) -> bool:
        """Count an item."""
        self._left -= 1
        return self._left < 0

    async def pause(self) -> None:
        """Count a pause."""
        self.pauses += 1


@pytest.mark.parametrize(("items", "pauses"), [(20, 20), (19, None)])
async def test_verdicts_from_memory_are_made_in_one_slice_and_counted_in_several(
    items: int, pauses: int | None
) -> None:
    """A batch whose verdicts take longer is left to the general path, uncounted."""
    records = Mock(position=Revision(7), verified=Mock(return_value=Mock(stored=Mock(key=KEY))))
    records.project.return_value = Mock(suspended=False, rate_limit=None)
    context = Mock(records=records, authenticate_cached=Mock(return_value=None))
    context.clock.now.return_value = NOW
    meter, slices = Mock(is_full=False), OverAfter(items)
    verification = CachedVerification(context, Mock(), meter)
    queries = [VerifyQuery("x", facts=Facts(permissions=ASKED))] * 20
    verified = await verification.verify_all(Mock(), queries, cast(Slices, slices))
    if pauses is None:
        assert verified is None
        assert 0 == meter.count.call_count
    else:
        assert verified is not None
        assert (20, 7) == (len(verified[0]), verified[1])
        assert (20, pauses) == (meter.count.call_count, slices.pauses)


async def test_uses_of_permissions_are_found_in_turns() -> None:
    """Those of all keys of a second, at its end."""
    counts = [metering._Count(KEY, VerdictCode.VALID, NOW, NOW) for _ in range(20)]
    for count in counts:
        count.note(ASKED, KEY.permissions)
    turns, (uses, _) = await turns_of(metering._PermissionDays().uses(counts))
    assert [(KEY.access_key, "orders.*:read", NOW)] == uses
    assert turns > len(counts)


async def test_events_are_compared_in_the_thread_that_reads_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A page of large records takes a tenth of a second."""
    threads: set[int] = set()
    monkeypatch.setattr(audit, "list_events", lambda *_: ([Mock()], None))
    monkeypatch.setattr(audit, "event_of", lambda _: threads.add(threading.get_ident()))

    async def query(read: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.to_thread(read, Mock(), *arguments)

    context = Mock(store=Mock(query=query), require_visible=AsyncMock())
    page = await audit.Audit(context, Mock()).list(Mock(), EventQuery(), b"", 10)
    assert 1 == len(page.items)
    assert 1 == len(threads - {threading.get_ident()})
