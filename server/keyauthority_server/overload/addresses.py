"""The address of a peer, and the network that counts as one peer."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address
from typing import Any, Final

NETWORKS_KEPT: Final = 10_000  # peers whose network need not be worked out again
NETWORK_BYTES: Final = 8  # of an IPv6 address: one customer gets a /64


def address_of(peer: str) -> str:
    """Return the peer's IP address without its port, or `unix`."""
    family, _, rest = peer.partition(":")
    if family == "ipv4":
        return rest.rpartition(":")[0]
    if family == "ipv6":
        host = rest.rpartition(":")[0]
        return host.removeprefix("%5B").removesuffix("%5D").strip("[]")
    return "unix"


def peer_name(address: tuple[Any, ...]) -> str:
    """Return the address of a socket in gRPC's notation."""
    host, port = address[:2]
    host = host.removeprefix("::ffff:") if "." in host else host
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"


@lru_cache(maxsize=NETWORKS_KEPT)
def network_of(peer: str) -> bytes | str:
    """Return the identity of a peer: its IPv4 address, its IPv6 network, or `unix`."""
    address = address_of(peer)
    if ":" not in address:
        return address
    found = IPv6Address(address.partition("%")[0])
    return str(found.ipv4_mapped) if found.ipv4_mapped else found.packed[:NETWORK_BYTES]
