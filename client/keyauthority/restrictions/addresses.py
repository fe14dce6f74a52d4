"""IP addresses and CIDR blocks as numbers.

An IPv4 address is a number below 2**32. Bit 128 marks an IPv6 address, so that the two never
compare equal. An IPv4-mapped IPv6 address (RFC 4291, 2.5.5.2) is the IPv4 address.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

_SETTINGS: Final = 64  # distinct lists that stay compiled
_ADDRESS_MAX: Final = 45  # characters: six groups and a dotted IPv4 address
_OCTETS: Final = {str(number): number for number in range(256)}
_IPV6: Final = re.compile(r"[0-9A-Fa-f:.]{2,45}", re.ASCII)  # excludes zones and brackets
_IPV6_MARK: Final = 1 << 128
_MAPPED: Final = 0xFFFF  # bits 32 to 127 of an IPv4-mapped address
_MAPPED_BITS: Final = 96
_PREFIX_LENGTH: Final = re.compile(r"[0-9]{1,3}", re.ASCII)


class Block(NamedTuple):
    """A CIDR block: a bit mask, and the value of the masked bits."""

    mask: int
    network: int

    def lies_in(self, other: Block) -> bool:
        """Return True if the other block contains every address of this one."""
        return self.mask & other.mask == other.mask and self.network & other.mask == other.network


def parse_address(text: str) -> int | None:
    """Return the address as a number; None for any other text, including a zone (`%eth0`)."""
    if len(text) > _ADDRESS_MAX:
        return None
    octets = _OCTETS
    try:
        first, second, third, fourth = text.split(".")
        return octets[first] << 24 | octets[second] << 16 | octets[third] << 8 | octets[fourth]
    except (KeyError, ValueError):
        return _parse_ipv6(text)


def _parse_ipv6(text: str) -> int | None:
    if _IPV6.fullmatch(text) is None:
        return None
    try:
        number = int.from_bytes(socket.inet_pton(socket.AF_INET6, text), "big")
    except OSError:
        return None
    return number & 0xFFFF_FFFF if number >> 32 == _MAPPED else number | _IPV6_MARK


def parse_block(text: str) -> Block:
    """Parse a CIDR block or a single address. Raises ValueError with the violated rule.

    Bits after the prefix are ignored.
    """
    address, slash, length = text.partition("/")
    if "%" in text:
        raise ValueError("an address with a zone has no meaning here")
    number = parse_address(address)
    if number is None:
        raise ValueError("not an IPv4 or IPv6 address, such as 192.0.2.7 or 2001:db8::7")
    width = 128 if ":" in address else 32
    if slash and (_PREFIX_LENGTH.fullmatch(length) is None or int(length) > width):
        raise ValueError(
            f"a block is an address, a slash and a prefix length up to {width}, such as 10.0.0.0/8"
        )
    prefix = int(length) if slash else width
    if width == 128 and number < _IPV6_MARK:
        if prefix < _MAPPED_BITS:  # wider than the IPv4-mapped range: an IPv6 block
            number |= _MAPPED << 32 | _IPV6_MARK
        else:
            width, prefix = 32, prefix - _MAPPED_BITS
    mask = _IPV6_MARK | ((1 << width) - (1 << (width - prefix)))
    return Block(mask, number & mask)


def check_ip_or_network(text: str) -> None:
    """Raise ValueError unless `text` is an IPv4 or IPv6 address or CIDR block."""
    parse_block(text)


def check_ip(text: str) -> None:
    """Raise ValueError unless `text` is an IPv4 or IPv6 address, without a zone."""
    if parse_address(text) is None:
        raise ValueError("not an IPv4 or IPv6 address without a zone")


def ip_allowed(allowed: Sequence[str], address: str) -> bool:
    """Return True if one of the blocks contains the address."""
    number = parse_address(address)
    return number is not None and number in _compiled(tuple(allowed))


@lru_cache(_SETTINGS)
def _compiled(allowed: tuple[str, ...]) -> AddressSet:
    """Compile a setting once: clients choose how many addresses are compared with it."""
    return AddressSet(map(parse_block, allowed))


def ips_within(inner: Sequence[str], outer: Sequence[str]) -> bool:
    """Return True if `outer` contains each of the `inner` blocks; an empty list means all."""
    if not outer:
        return True
    blocks = [parse_block(text) for text in outer]
    return bool(inner) and all(
        any(block.lies_in(other) for other in blocks) for block in map(parse_block, inner)
    )


class AddressSet:
    """A set of blocks. A lookup costs one step per distinct prefix length."""

    __slots__ = ("_networks",)

    def __init__(self, blocks: Iterable[Block]) -> None:
        networks: dict[int, set[int]] = {}
        for mask, network in blocks:
            networks.setdefault(mask, set()).add(network)
        self._networks = tuple((mask, frozenset(values)) for mask, values in networks.items())

    def __contains__(self, address: int) -> bool:
        for mask, networks in self._networks:  # noqa: SIM110 - twice as fast as any()
            if address & mask in networks:
                return True
        return False
