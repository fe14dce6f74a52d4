"""Metrics of one sender of events, and the address that serves them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Final

from keyauthority.endpoint.answers import MetricsPage
from keyauthority.endpoint.exposition import counter, gauge, text
from keyauthority.endpoint.http_server import HttpServer
from keyauthority.endpoint.listen import Listen, bind
from keyauthority.notify.outbox import Outbox
from keyauthority.notify.settings import CannotListen

DRAIN_SECONDS: Final = 1  # for a scrape to be answered
CONNECTIONS_MAX: Final = 32  # so that deliveries never lack descriptors; the oldest is cut

_log: Final = logging.getLogger("keyauthority.notify")


class Outcome(StrEnum):
    """The outcome of an attempt."""

    DELIVERED = "delivered"
    FAILED = "failed"
    """Another attempt follows."""
    GIVEN_UP = "given_up"
    """It failed, and was the last one of its event."""
    GONE = "gone"
    """The receiver wants no events."""


class Metrics:
    """Counts attempts, and looks at the outbox. No label has a value that another can choose."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox
        self._attempts = Counter(dict.fromkeys(Outcome, 0))

    def attempted(self, outcome: Outcome) -> None:
        """Count an attempt."""
        self._attempts[outcome] += 1

    def text(self) -> str:
        """Return all metrics, in the text format of Prometheus."""
        outbox = self._outbox
        retries = outbox.retries
        return text(
            counter(
                "keyauthority_notify_events_total",
                "Events taken from the authority, by source.",
                (({"source": source}, number) for source, number in outbox.taken.items()),
            ),
            counter(
                "keyauthority_notify_attempts_total",
                "Attempts to deliver an event, by outcome.",
                (({"outcome": outcome}, number) for outcome, number in self._attempts.items()),
            ),
            gauge(
                "keyauthority_notify_pending_events",
                "Events that are not delivered: without a failed attempt, or with one.",
                [({"state": "new"}, len(outbox) - retries), ({"state": "retry"}, retries)],
            ),
            gauge(
                "keyauthority_notify_oldest_pending_seconds",
                "Time since the oldest pending event was taken; 0 without one.",
                [({}, f"{outbox.oldest_age:.3f}")],
            ),
            gauge(
                "keyauthority_notify_revision",
                "Revision up to which changes were taken.",
                [({}, outbox.position.revision if outbox.position else 0)],
            ),
        )


@asynccontextmanager
async def serving(metrics: Metrics, address: Listen | None) -> AsyncIterator[None]:
    """Serve `/metrics` at an address, if there is one. Raises CannotListen."""
    if address is None:
        yield
        return
    try:
        bound = bind(address)
    except OSError as failed:
        raise CannotListen(f"--metrics: cannot listen on {failed}") from None
    server = HttpServer(MetricsPage(metrics.text), DRAIN_SECONDS, CONNECTIONS_MAX)
    await server.start(bound)
    port = address.port if address.path else bound.getsockname()[1]
    _log.info("metrics are served on %s", address._replace(port=port))
    try:
        yield
    finally:
        await server.stop(bound)
