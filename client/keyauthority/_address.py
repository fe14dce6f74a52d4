"""Strict parser for the address of an authority.

gRPC reads a target as a URI: it drops a fragment, a query and an authority part, and decodes
percent signs, so a check on the text alone could apply to a host other than the one connected to.
Every form accepted here has exactly one reading; any other text is rejected.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from keyauthority.errors import FieldViolation, InvalidArgument

_PORT_MAX: Final = 65_535
_NAME_MAX: Final = 253  # characters of a host name, RFC 1035
_LABEL: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?", re.ASCII)
_ENDPOINT: Final = re.compile(r"(\[[^\[\]]*\]|[^\[\]:]*)(?::([0-9]{1,5}))?", re.ASCII)
_ZONE: Final = re.compile(r"%25[A-Za-z0-9_.-]{1,15}", re.ASCII)  # as in [fe80::1%25eth0]
_URL: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_URI_PARTS: Final = frozenset("#?%@")  # characters that gRPC interprets as parts of a URI
_UNIX: Final = re.compile(r"(?:unix:(?!//)|unix:///|unix-abstract:)[^\s]+")
_VSOCK: Final = re.compile(r"vsock:[0-9]{1,10}:[0-9]{1,10}", re.ASCII)

_FORMS: Final = "write host:port or unix:/path, as 127.0.0.1:50051"
_SEVERAL: Final = (
    "a list holds IPv4 or IPv6 addresses with ports, separated by commas; for a name with several "
    "addresses write dns:///name:port"
)


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed address."""

    target: str
    """The target for gRPC."""
    hosts: tuple[str, ...] = ()
    """Host names and IP addresses without brackets and ports; empty for a Unix socket."""
    authority: str = ""
    """`host:port` of the first server, if the address may resolve to several."""
    several: bool = False
    """True if the address lists more than one server."""

    def is_loopback(self) -> bool:
        """Return True if gRPC can reach only this machine at the address.

        `localhost` is resolved, since a hosts file may map it to another machine.
        """
        return all(map(_is_loopback, self.hosts))


def parse(text: str) -> Address:
    """Return the parsed address. Raises InvalidArgument, listing the accepted forms."""
    for prefix, read in _SCHEMES.items():
        if text.startswith(prefix):
            return read(text)
    if _URL.match(text):
        scheme = text.partition(":")[0]
        tls = ", and use TLS" if scheme.lower() in ("https", "grpcs") else ""
        raise _invalid(f"{scheme}:// is not used here: write host:port{tls}")
    endpoints = text.split(",")
    if len(endpoints) == 1:
        host, port = _endpoint(text)
        if ":" in host:  # as gRPC would write it
            return Address(f"[{host}]:{port}", (host,))
        return Address(text, (host,))
    for family in ("ipv4", "ipv6"):
        hosts = [_literal(endpoint, family) for endpoint in endpoints]
        if all(hosts):
            return Address(f"{family}:{text}", tuple(filter(None, hosts)), endpoints[0], True)
    raise _invalid(_SEVERAL)


def _socket(text: str) -> Address:
    if not _UNIX.fullmatch(text) or _URI_PARTS.intersection(text):
        raise _invalid("a unix socket is unix:/path, without white space and any of # ? % @")
    return Address(text)


def _vsock(text: str) -> Address:
    if not _VSOCK.fullmatch(text):
        raise _invalid("a virtual socket is vsock:cid:port")
    return Address(text, (text,))


def _name(text: str) -> Address:
    rest = text.removeprefix("dns:")
    if rest.startswith("/"):
        if not rest.startswith("///"):
            raise _invalid("a name server cannot be chosen: write dns:///name:port")
        rest = rest.removeprefix("///")
    host, _ = _endpoint(rest)
    return Address(text, (host,), rest)


def _literals(text: str) -> Address:
    family, _, rest = text.partition(":")
    endpoints = rest.split(",")
    hosts = [_literal(endpoint, family) for endpoint in endpoints]
    if not all(hosts):
        raise _invalid(_SEVERAL)
    return Address(text, tuple(filter(None, hosts)), endpoints[0], len(endpoints) > 1)


_SCHEMES: Final[dict[str, Callable[[str], Address]]] = {
    "unix:": _socket,
    "unix-abstract:": _socket,
    "vsock:": _vsock,
    "dns:": _name,
    "ipv4:": _literals,
    "ipv6:": _literals,
}


def _endpoint(text: str) -> tuple[str, str]:
    """Return host and port of `host:port`, the host without brackets."""
    match = _ENDPOINT.fullmatch(text)
    host = match[1] if match else ""
    if match is None or not host:
        raise _invalid(_FORMS)
    if host.startswith("["):
        host = host[1:-1]
        if _ip(host, "ipv6") is None:
            raise _invalid(f"the brackets do not contain an IPv6 address; {_FORMS}")
    elif len(host) > _NAME_MAX or not _NAME.fullmatch(host):
        raise _invalid(f"the host is not a name or IP address; {_FORMS}")
    port = match[2]
    if port is None:
        raise _invalid(f"the port is missing; {_FORMS}")
    if not 0 < int(port) <= _PORT_MAX:
        raise _invalid(f"a port is 1 to {_PORT_MAX}")
    return host, port


def _literal(endpoint: str, family: str) -> str | None:
    """Return the IP address of `address:port`; None if it is not of the family."""
    match = _ENDPOINT.fullmatch(endpoint)
    if match is None or match[2] is None or not 0 < int(match[2]) <= _PORT_MAX:
        return None
    host = match[1]
    if (family == "ipv6") != host.startswith("["):
        return None
    host = host.strip("[]")
    return host if _ip(host, family) else None


def _ip(host: str, family: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        if family == "ipv4":
            return ipaddress.IPv4Address(host)
        bare = _ZONE.sub("", host)
        return None if "%" in bare else ipaddress.IPv6Address(bare)
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    address = _ip(host, "ipv4") or _ip(host, "ipv6")
    if address is None:
        return host.lower() == "localhost" and _resolves_to_loopback(host)  # RFC 6761, section 6.3
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _resolves_to_loopback(name: str) -> bool:
    try:
        addresses = socket.getaddrinfo(name, None, proto=socket.IPPROTO_TCP)
    except OSError:
        return True  # unresolvable: nothing can be sent
    return all(ipaddress.ip_address(str(sockaddr[0])).is_loopback for *_, sockaddr in addresses)


def _invalid(description: str) -> InvalidArgument:
    return InvalidArgument(
        f"address: {description}", fields=[FieldViolation("address", description)]
    )
