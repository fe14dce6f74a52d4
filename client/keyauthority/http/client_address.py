"""The client's address: that of the connection, or as reported by trusted proxies."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from keyauthority.restrictions import check_ip, check_ip_or_network, ip_allowed

FORWARDED: Final = "x-forwarded-for"

TrustedProxies = int | Sequence[str]
"""The number of proxies in front of the service, or their addresses and CIDR blocks."""


def check_proxies(trusted: TrustedProxies) -> int | tuple[str, ...]:
    """Return the validated setting. Raises ValueError for a negative number or a bad address.

    Raises TypeError for other values.
    """
    if isinstance(trusted, (bool, str)) or trusted is None:  # True would trust every sender
        kind = type(trusted).__name__
        raise TypeError(f"trusted_proxies is a number or a list of addresses, not {kind}")
    if isinstance(trusted, int):
        if trusted < 0:
            raise ValueError("trusted_proxies is a number of proxies, 0 or more")
        return trusted
    for address in trusted:
        try:
            check_ip_or_network(address)
        except ValueError as invalid:
            raise ValueError(f"trusted_proxies: {address!r}: {invalid}") from None
    return tuple(trusted)


def client_ip(peer: str, forwarded: Iterable[str], trusted: int | tuple[str, ...]) -> str:
    """Return the client's address; empty if unknown.

    Each proxy appends the address of its peer to X-Forwarded-For. With a number, the entry of the
    outermost trusted proxy is used, for any peer. With addresses, the peer must be among them; then
    the last entry that is not among them is used. Entries further left come from the client and
    are ignored.
    """
    if not trusted or (not isinstance(trusted, int) and not _is_one_of(trusted, peer)):
        return _valid(peer)
    hops = [_address(hop.strip()) for line in forwarded for hop in line.split(",")]
    if isinstance(trusted, int):
        return _valid(hops[-trusted]) if len(hops) >= trusted else ""
    for hop in reversed(hops):
        if not _is_one_of(trusted, hop):
            return _valid(hop)
    return _valid(hops[0]) if hops else ""


def _is_one_of(trusted: tuple[str, ...], address: str) -> bool:
    return ip_allowed(trusted, _valid(address))


def _valid(address: str) -> str:
    """Return the address without its zone, which is local to this machine; empty if invalid."""
    address = address.partition("%")[0]
    try:
        check_ip(address)
    except ValueError:
        return ""
    return address


def _address(hop: str) -> str:
    """Return an address without the port and brackets that some proxies add."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
