"""The running command: it reads the authority and delivers, from the start to the drain.

New events and retries have slots of their own, so that a new event never waits for one that fails.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from http import HTTPStatus
from typing import Final

from keyauthority.clock import monotonic
from keyauthority.notify.advisories import AdvisoryLooker
from keyauthority.notify.follow import Follower
from keyauthority.notify.journal import Journal
from keyauthority.notify.metrics import Metrics, Outcome, serving
from keyauthority.notify.outbox import RETRY_AFTER_MAX, Outbox, Pending
from keyauthority.notify.settings import ReceiverGone, Settings
from keyauthority.notify.webhook import Answer, Webhook
from keyauthority.text import one_line

NEW_SLOTS: Final = 16  # first attempts at once
RETRY_SLOTS: Final = 4  # later attempts at once
THROTTLE_SECONDS: Final = 1.0  # without attempts, for a receiver under load
THROTTLED: Final = frozenset(
    {
        *(HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.BAD_GATEWAY),
        *(HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.GATEWAY_TIMEOUT),
    }
)
"""Statuses of a receiver that is overloaded for the present."""

_log: Final = logging.getLogger("keyauthority.notify")
_attempts: Final = logging.getLogger("keyauthority.notify.attempts")  # written once a second


class Sender:
    """Delivers the events of an outbox."""

    def __init__(self, outbox: Outbox, webhook: Webhook, metrics: Metrics) -> None:
        self._outbox = outbox
        self._metrics = metrics
        self._webhook = webhook
        self._wake = asyncio.Event()
        self._stopped = False
        self._gone = False
        self._resume = 0.0  # monotonic time before which no attempt begins
        self._slots = {True: RETRY_SLOTS, False: NEW_SLOTS}
        outbox.on_new = self._wake.set

    async def deliver(self) -> None:
        """Deliver until `stop`, then wait for attempts that have begun.

        Raises ReceiverGone after an answer 410, and CursorFailed.
        """
        async with asyncio.TaskGroup() as attempts:
            while not self._stopped:
                self._wake.clear()
                while (pending := self._next()) is not None:
                    self._slots[pending.attempts > 0] -= 1
                    attempts.create_task(self._attempt(pending))
                await self._wait()
        if self._gone:
            raise ReceiverGone(
                "the receiver answered 410 Gone: it wants no events, and none is sent until the"
                f" next start; {len(self._outbox)} wait in the cursor file"
            )

    def stop(self) -> None:
        """Begin no attempt any more."""
        self._stopped = True
        self._wake.set()

    def _next(self) -> Pending | None:
        """Return an event to attempt now, if there is one and it has a slot."""
        if monotonic() < self._resume:
            return None
        pending = self._outbox.next_new() if self._slots[False] else None
        if pending is None and self._slots[True]:
            pending = self._outbox.next_retry()
        return pending

    async def _wait(self) -> None:
        """Wait for an event, a free slot, the time of a retry, or the stop."""
        due = self._outbox.next_due if self._slots[True] else None
        if monotonic() < self._resume:
            due = self._resume
        try:
            async with asyncio.timeout(None if due is None else max(due - monotonic(), 0)):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _attempt(self, pending: Pending) -> None:
        lane = pending.attempts > 0
        answer = await self._webhook.send(pending.event)
        if not answer.failure:
            self._outbox.delivered(pending)
            self._metrics.attempted(Outcome.DELIVERED)
        elif answer.status == HTTPStatus.GONE:
            self._metrics.attempted(Outcome.GONE)
            self._gone = True
            self.stop()
            return
        else:
            self._fail(pending, answer)
        await self._outbox.flush()
        self._slots[lane] += 1
        self._wake.set()

    def _fail(self, pending: Pending, answer: Answer) -> None:
        if answer.status in THROTTLED:
            pause = min(answer.retry_after or THROTTLE_SECONDS, RETRY_AFTER_MAX)
            self._resume = max(self._resume, monotonic() + pause)
        failure = one_line(answer.failure)
        is_repeated = self._outbox.failed(pending, answer.retry_after)
        self._metrics.attempted(Outcome.FAILED if is_repeated else Outcome.GIVEN_UP)
        if is_repeated:
            _attempts.warning(
                "event %s is sent again: attempt %d failed: %s",
                *(pending.event.id, pending.attempts, failure),
            )
        else:
            _log.error(
                "event %s is given up after %d attempts; the last failed: %s",
                *(pending.event.id, pending.attempts + 1, failure),
            )


async def run(settings: Settings, announce: Callable[[], None]) -> None:
    """Deliver until SIGTERM or SIGINT; see `deliver`."""
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    await deliver(settings, announce, stopped)


async def deliver(settings: Settings, announce: Callable[[], None], stopped: asyncio.Event) -> None:
    """Deliver until stopped; `announce` is called when changes and advisories become events.

    Raises CannotNotify, CursorFailed, CannotListen, ReceiverGone, and KeyAuthorityError for an
    operator key that is not valid.
    """
    async with Webhook(settings) as webhook:
        await webhook.check_address()
        with Journal(settings.cursor_file) as journal:
            outbox = Outbox(journal)
            metrics = Metrics(outbox)
            looker = AdvisoryLooker(settings, outbox)
            follower, sender = Follower(settings, outbox), Sender(outbox, webhook, metrics)
            try:
                async with serving(metrics, settings.metrics):
                    await _run(follower, looker, sender, stopped, announce)
            except BaseExceptionGroup as failures:
                raise _first(failures) from None


async def _run(
    follower: Follower,
    looker: AdvisoryLooker,
    sender: Sender,
    stopped: asyncio.Event,
    announce: Callable[[], None],
) -> None:
    async def announce_when_ready() -> None:
        await follower.ready.wait()
        await looker.ready.wait()
        announce()

    async with asyncio.TaskGroup() as tasks:
        reading = [
            tasks.create_task(follower.follow()),
            tasks.create_task(looker.follow(follower.ready)),
            tasks.create_task(announce_when_ready()),
        ]
        delivering = tasks.create_task(sender.deliver())
        await stopped.wait()
        for task in reading:
            task.cancel()
        sender.stop()
        await delivering


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    failure = failures.exceptions[0]
    return _first(failure) if isinstance(failure, BaseExceptionGroup) else failure
