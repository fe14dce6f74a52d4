"""allowed_ips: addresses and blocks of both versions, compared as numbers."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from keyauthority.model import Restrictions
from keyauthority.restrictions import DIRECT, Matcher, check_ip, check_ip_or_network


def ip_allowed(blocks: tuple[str, ...], client_ip: str) -> bool:
    """Whether a key with these blocks may be used from the address."""
    return Matcher(Restrictions(allowed_ips=blocks)).allows_address(client_ip, DIRECT.address)


@pytest.mark.parametrize(
    ("block", "client_ip", "expected"),
    [
        ("10.0.0.1", "10.0.0.1", True),
        ("10.0.0.1", "10.0.0.10", False),
        ("10.0.0.0/8", "10.255.255.255", True),
        ("10.0.0.0/8", "11.0.0.0", False),
        ("10.9.8.7/8", "10.1.2.3", True),  # host bits say nothing
        ("0.0.0.0/0", "203.0.113.9", True),
        ("0.0.0.0/0", "2001:db8::1", False),
        ("::/0", "2001:db8::1", True),
        ("::/0", "203.0.113.9", False),
        ("2001:db8::1", "2001:0DB8:0:0:0:0:0:1", True),
        ("2001:DB8::/32", "2001:db8:ffff::1", True),
        ("2001:db8::/32", "2001:db9::1", False),
        ("10.0.0.0/8", "::ffff:10.0.0.1", True),
        ("10.0.0.0/8", "::ffff:a00:1", True),
        ("::ffff:10.0.0.0/104", "10.200.0.1", True),
        ("::ffff:10.0.0.0/104", "11.0.0.1", False),
        ("::ffff:10.0.0.1", "10.0.0.1", True),
        ("::ffff:10.0.0.1", "::ffff:10.0.0.1", True),
        ("::10.0.0.1", "10.0.0.1", False),  # IPv4-compatible, RFC 4291 2.5.5.1: another address
        ("64:ff9b::10.0.0.1", "10.0.0.1", False),
    ],
)
def test_address_is_compared_as_a_number(block: str, client_ip: str, expected: bool) -> None:
    """Spelling does not matter; a mapped IPv4 address equals the IPv4 address."""
    check_ip_or_network(block)
    check_ip(client_ip)
    assert ip_allowed((block,), client_ip) is expected


def test_address_in_any_of_several_blocks_is_allowed() -> None:
    """Several entries mean any of them."""
    assert ip_allowed(("192.0.2.1", "10.0.0.0/8", "2001:db8::/32"), "10.0.0.7")
    assert not ip_allowed(("192.0.2.1", "2001:db8::/32"), "10.0.0.7")


BAD_ADDRESSES = [
    "",
    " ",
    "10.0.0",
    "10.0.0.256",
    "10.0.0.01",
    "0x0a.0.0.1",
    "167772161",
    " 10.0.0.1",
    "10.0.0.1 ",
    "10.0.0.1\n",
    "10.0.0.1%eth0",
    "10.0.0.1:443",
    "[2001:db8::1]",
    "2001:db8::1::2",
    "2001:db8::12345",
    "\uff11\uff10.0.0.1",
    "\u0661.0.0.1",
    "shop.example",
    "fe80::1%",
    "fe80::1%eth0",
    "fe80::1%25eth0",
    "::ffff:10.0.0.01",
    "::ffff:10.0.0.256",
    "1:2:3:4:5:6:7:8:9",
    ":",
    ":::",
    "1" * 1_000_000,
]


@pytest.mark.parametrize("text", BAD_ADDRESSES, ids=lambda text: ascii(text[:20]))
def test_malformed_address_is_refused_and_never_allowed(text: str) -> None:
    """It is rejected as an entry, not met as a fact, and never raises."""
    with pytest.raises(ValueError, match=r"."):
        check_ip(text)
    with pytest.raises(ValueError, match=r"."):
        check_ip_or_network(text)
    assert not ip_allowed(("0.0.0.0/0", "::/0"), text)


@pytest.mark.parametrize(
    "text",
    [
        "10.0.0.0/",
        "10.0.0.0/33",
        "10.0.0.0/-1",
        "10.0.0.0/255.0.0.0",
        "10.0.0.0/0.0.0.0",
        "10.0.0.0/0.0.0.255",
        "10.0.0.0/8/8",
        "10.0.0.0 /8",
        "10.0.0.0/8 ",
        "10.0.0.0/\uff18",
        "/8",
        "2001:db8::/129",
        "fe80::1%eth0",
        "fe80::%eth0/10",
    ],
    ids=ascii,
)
def test_malformed_block_is_refused(text: str) -> None:
    """A block is an address, a slash and a prefix length; no mask and no zone."""
    with pytest.raises(ValueError, match=r"."):
        check_ip_or_network(text)


@given(st.from_regex(r"[0-9a-f.:]{0,20}", fullmatch=True) | st.text(max_size=8))
@example("1::")
@example("::1.2.3.4")
@example("1:2:3:4:5:6:7::")
@example("1:2:3:4:5:6:1.2.3.4")
@example("1:2:3:4:5:6:7:1.2.3.4")
@example("::00001")
@example("1.2.3.4.")
@example("1.2.3.4::")
def test_address_parser_agrees_with_ipaddress(text: str) -> None:
    """Addresses are parsed faster than by `ipaddress`, and accepted equally."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        with pytest.raises(ValueError, match="address"):
            check_ip(text)
    else:
        check_ip(text)
        assert ip_allowed((str(address),), text)


@given(st.ip_addresses(), st.integers(0, 128), st.ip_addresses())
def test_block_comparison_agrees_with_ipaddress(
    base: ipaddress.IPv4Address | ipaddress.IPv6Address,
    length: int,
    other: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    """Integer masks give the answer of `ipaddress`, also at the block's ends."""
    network = ipaddress.ip_network(f"{base}/{min(length, base.max_prefixlen)}", strict=False)
    ends = [network.network_address, network.broadcast_address]
    beyond = [end + step for end in ends for step in (-1, 1) if 0 < int(end) < 2**32 - 1]
    for address in [other, *ends, *beyond]:
        if getattr(address, "ipv4_mapped", None) or getattr(base, "ipv4_mapped", None):
            continue  # compared as IPv4
        assert ip_allowed((str(network),), str(address)) is (address in network)


@given(st.ip_addresses(), st.integers(0, 128))
def test_block_contains_its_own_address_in_any_spelling(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address, length: int
) -> None:
    """A block built around an address allows every spelling of it."""
    block = f"{address}/{min(length, address.max_prefixlen)}"
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped and length < 96:
        return  # such a block is IPv6's, and the address is IPv4's
    assert ip_allowed((block,), str(address))
    assert ip_allowed((block,), address.exploded)
