"""How many calls a peer may make that no operator key answers for: with a bare secret, or failing.

A call that succeeds costs its peer nothing, and one with a well-formed operator key is never
refused for what others did from the same address: behind a gateway all are one peer. What is
counted is failures: of secrets (GetProjectId, RevokeKey without a credential), which are refused
before they are read once there were too many, and of credentials.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from google.rpc.code_pb2 import UNAUTHENTICATED

from keyauthority_server.overload import network_of
from keyauthority_server.rpc.credentials import presented
from keyauthority_server.rpc.policy import Admission
from keyauthority_server.shedding import Ground, Tally, overloaded
from keyauthority_server.wire import Answer, Call, Refusal

FAILURES_PER_SECOND: Final = 200  # of one peer in one worker: guessing 2**256 gains nothing by it
FAILURES_AT_ONCE: Final = 2_000  # ten seconds of it: a client with an old secret in a tight loop
PEERS_MAX: Final = 10_000  # remembered, some 3 MB; the one heard of longest ago is forgotten first

too_many: Final = overloaded("too many failed calls from this address")


class Peers:
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


def limited(answer: Answer, admission: Admission, peers: Peers, tally: Tally | None) -> Answer:
    """Return the method so that its failures count against the peers that make them."""
    bare = admission in (Admission.SECRET, Admission.EITHER)

    def refusal() -> Refusal:
        if tally is not None:
            tally.refused(Ground.PEER)
        return too_many()

    async def known(body: bytes, call: Call) -> bytes:
        try:
            return await answer(body, call)
        except Refusal as refused:
            if refused.code == UNAUTHENTICATED and not peers.take(call.peer):
                raise refusal() from None
            raise

    async def by_secret(body: bytes, call: Call) -> bytes:
        if admission is Admission.EITHER and presented(call):
            return await known(body, call)
        if not peers.take(call.peer):
            raise refusal()
        try:
            answered = await answer(body, call)
        except Refusal as refused:
            if refused.code != UNAUTHENTICATED:
                peers.give_back(call.peer)
            raise
        peers.give_back(call.peer)
        return answered

    return by_secret if bare else known
