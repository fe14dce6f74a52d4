"""The failure throttle of each peer."""

from __future__ import annotations

import pytest
from google.rpc.code_pb2 import NOT_FOUND, RESOURCE_EXHAUSTED, UNAUTHENTICATED

from keyauthority_server.overload import throttle
from keyauthority_server.overload.throttle import (
    FAILURES_AT_ONCE,
    FAILURES_PER_SECOND,
    FailureThrottle,
    throttle_failures,
)
from keyauthority_server.rpc.credentials import by_operator
from keyauthority_server.rpc.policy import CredentialSource
from keyauthority_server.rpc_types import Call, Metadata, RpcError

OPERATOR = (("authorization", "Bearer op_live_x"),)
PEER = "ipv4:192.0.2.1:5000"


class Time:
    """A clock that stands until it is moved."""

    now = 0.0

    def __call__(self) -> float:
        """Return its state."""
        return self.now


def emptied(of: FailureThrottle, peer: str) -> int:
    """Take all that a peer has; return how much that was."""
    taken = 0
    while of.take(peer):
        taken += 1
    return taken


def test_peer_failures_are_limited_by_burst_and_rate() -> None:
    """First a burst, then the rate, and never more than the burst."""
    time = Time()
    known = FailureThrottle(time)
    assert FAILURES_AT_ONCE == emptied(known, PEER)
    time.now += 1
    assert FAILURES_PER_SECOND == emptied(known, PEER)
    time.now += 10_000
    assert FAILURES_AT_ONCE == emptied(known, PEER)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("ipv4:192.0.2.1:5000", "ipv4:192.0.2.1:6000", True),
        ("ipv4:192.0.2.1:5000", "ipv4:192.0.2.2:5000", False),
        ("ipv6:%5B2001:db8::1%5D:5000", "ipv6:%5B2001:db8:0:0:ffff::2%5D:6000", True),
        ("ipv6:%5B2001:db8::1%5D:5000", "ipv6:%5B2001:db8:0:1::1%5D:5000", False),
        ("ipv6:%5B::ffff:192.0.2.1%5D:5000", "ipv4:192.0.2.1:6000", True),
        ("ipv6:%5Bfe80::1%25eth0%5D:5000", "ipv6:%5Bfe80::2%5D:5000", True),
        ("unix:", "unix:/run/authority", True),
    ],
)
def test_peer_is_an_address_or_a_network(one: str, other: str, same: bool) -> None:
    """IPv4 by address, IPv6 by /64, a unix socket as one."""
    known = FailureThrottle(Time())
    emptied(known, one)
    assert same is not known.take(other)


def test_throttle_evicts_the_least_recent_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded for any number of addresses."""
    monkeypatch.setattr(throttle, "PEERS_MAX", 2)
    known = FailureThrottle(Time())
    emptied(known, PEER)
    known.take("ipv4:192.0.2.2:1")
    assert not known.take(PEER)
    known.take("ipv4:192.0.2.3:1")
    assert known.take("ipv4:192.0.2.2:1")
    assert 2 == len(known._buckets)


@pytest.mark.parametrize("code", [None, NOT_FOUND, UNAUTHENTICATED])
@pytest.mark.parametrize("credentials", list(CredentialSource))
@pytest.mark.parametrize("metadata", [(), OPERATOR])
async def test_only_failed_proofs_are_throttled(
    code: int | None, credentials: CredentialSource, metadata: Metadata
) -> None:
    """A call is refused only if earlier ones failed to prove a credential."""
    known, served = FailureThrottle(Time()), 0

    async def answer(_: bytes, __: Call) -> bytes:
        nonlocal served
        served += 1
        if code is not None:
            raise RpcError(code, "", b"")
        return b""

    method = throttle_failures(answer, by_operator(credentials), known, None)
    last: int | None = None
    for _ in range(FAILURES_AT_ONCE + 1):
        try:
            await method(b"", Call(metadata, PEER))
        except RpcError as refused:
            last = refused.code
    failed = code == UNAUTHENTICATED
    assert (RESOURCE_EXHAUSTED if failed else code) == last
    bare = credentials is CredentialSource.SECRET or (
        credentials is CredentialSource.OPERATOR_OR_SECRET and not metadata
    )
    assert FAILURES_AT_ONCE + (not (failed and bare)) == served


async def test_operator_is_served_from_a_throttled_address() -> None:
    """A call with an operator key is handled although the bucket is empty."""
    known = FailureThrottle(Time())
    emptied(known, PEER)

    async def answer(_: bytes, __: Call) -> bytes:
        return b"served"

    for credentials in (
        CredentialSource.OPERATOR,
        CredentialSource.OPERATOR_INLINE,
        CredentialSource.OPERATOR_OR_SECRET,
    ):
        method = throttle_failures(answer, by_operator(credentials), known, None)
        assert b"served" == await method(b"", Call(OPERATOR, PEER))
