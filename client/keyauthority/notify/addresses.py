"""Addresses that an event may be sent to: only those of the public internet.

A name of the internet may resolve to an address of a private network, where a request could reach
services that trust their network. A name may also change between a check and a connection, so
`PublicBackend` resolves it itself and connects to the addresses that it has checked.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from typing import Final

import httpcore

_IPV6_UNICAST: Final = ipaddress.IPv6Network("2000::/3")
"""All addresses of the public internet; IPv4-mapped and NAT64 addresses are outside."""
_NOT_PUBLIC: Final = tuple(
    map(
        ipaddress.ip_network,
        (
            *("2001::/23", "2001:db8::/32", "3fff::/20", "5f00::/16"),  # special purposes
            *("2002::/16", "192.88.99.0/24"),  # 6to4, which has an IPv4 address inside
        ),
    )
)


class RefusedAddress(Exception):
    """The host has an address outside the public internet; the message names both."""


def is_public(text: str) -> bool:
    """Return True for an address of the public internet, which may have a scope.

    False for private, loopback, link-local, multicast, unspecified and reserved addresses, and for
    IPv6 addresses with an IPv4 address inside: IPv4-mapped, NAT64, 6to4 and Teredo.
    """
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address not in _IPV6_UNICAST:
        return False
    if any(address in network for network in _NOT_PUBLIC):
        return False
    return address.is_global and not address.is_multicast


async def resolve(host: str, port: int, *, allow_private: bool) -> list[str]:
    """Return the addresses of a host, in the order of the system's resolver.

    Raises RefusedAddress if one of them is not public, unless `allow_private`, and OSError if the
    name cannot be resolved.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
    for address in addresses:
        if not (allow_private or is_public(address)):
            raise RefusedAddress(f"{host} has the address {address}, which is not public")
    return addresses


class PublicBackend(httpcore.AsyncNetworkBackend):
    """Connects to public addresses only. Each connection resolves the name once, and checks it."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._backend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - as httpcore has it
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the first of the addresses that accepts. Raises RefusedAddress."""
        failure: Exception = httpcore.ConnectError(f"{host} has no address")
        for address in await resolve(host, port, allow_private=self._allow_private):
            try:
                return await self._backend.connect_tcp(
                    address, port, timeout, local_address, socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as failed:
                failure = failed
        raise failure

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await self._backend.sleep(seconds)
