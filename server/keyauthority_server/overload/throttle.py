"""Bounds the failing calls of a peer without an operator key.

A successful call costs its peer nothing, and a call with a well-formed operator key is never
refused for the failures of others at the same address: behind a gateway all are one peer. Failures
of secrets (GetProjectId, RevokeKey without a credential) and of credentials are counted. After too
many, calls with a bare secret are refused before they are read.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from google.rpc.code_pb2 import UNAUTHENTICATED

from keyauthority_server.overload import network_of
from keyauthority_server.overload.errors import ShedCounter, ShedReason, overloaded
from keyauthority_server.rpc_types import Call, Handler, RpcError

FAILURES_PER_SECOND: Final = 200  # of one peer in one worker: guessing 2**256 gains nothing by it
FAILURES_AT_ONCE: Final = 2_000  # ten seconds of it: a client with an old secret in a tight loop
PEERS_MAX: Final = 10_000  # remembered, some 3 MB; the one heard of longest ago is forgotten first

too_many: Final = overloaded("too many failed calls from this address")


class FailureThrottle:
    """A bucket of failures for each peer. Used in the event loop only."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._buckets: OrderedDict[bytes | str, _Bucket] = OrderedDict()

    def take(self, peer: str) -> bool:
        """Count a call as failed until it is given back; False if the peer has none left."""
        name, now = network_of(peer), self._now()
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = _Bucket(now)
            if len(self._buckets) > PEERS_MAX:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(name)
        return bucket.take(now)

    def give_back(self, peer: str) -> None:
        """Count one call less: it did not fail."""
        bucket = self._buckets.get(network_of(peer))
        if bucket is not None:
            bucket.left = min(bucket.left + 1, FAILURES_AT_ONCE)


class _Bucket:
    """How many calls of a peer may still fail, and when that was so."""

    __slots__ = ("left", "time")

    def __init__(self, now: float) -> None:
        self.left: float = FAILURES_AT_ONCE
        self.time = now

    def take(self, now: float) -> bool:
        """Take one, if there is one."""
        gained = (now - self.time) * FAILURES_PER_SECOND
        self.left = min(self.left + gained, FAILURES_AT_ONCE)
        self.time = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


def throttle_failures(
    answer: Handler,
    by_operator: Callable[[Call], bool],
    throttle: FailureThrottle,
    counter: ShedCounter | None,
) -> Handler:
    """Return the method so that its failures count against the peers that make them.

    `by_operator` is true for a call with an operator's credential. Any other call needs a place
    among the failures of its peer before it is served, and gives the place back if it succeeds.
    """

    def too_many_failures() -> RpcError:
        if counter is not None:
            counter.refused(ShedReason.PEER)
        return too_many()

    async def throttled(body: bytes, call: Call) -> bytes:
        operator = by_operator(call)
        if not operator and not throttle.take(call.peer):
            raise too_many_failures()
        try:
            answered = await answer(body, call)
        except RpcError as failed:
            if failed.code == UNAUTHENTICATED:
                if operator and not throttle.take(call.peer):
                    raise too_many_failures() from None
            elif not operator:
                throttle.give_back(call.peer)
            raise
        if not operator:
            throttle.give_back(call.peer)
        return answered

    return throttled
