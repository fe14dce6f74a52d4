"""Parses the address of an authority as strictly as gRPC would resolve it loosely.

gRPC reads a target as a URI: it drops a fragment, a query and an authority part, and decodes
percent signs. A check on the text alone would then judge another host than the one connected to.
Here each accepted form has one reading, and everything else is refused.
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
_URI_PARTS: Final = frozenset("#?%@")  # where the text and gRPC's reading of it come apart
_UNIX: Final = re.compile(r"(?:unix:(?!//)|unix:///|unix-abstract:)[^\s]+")
_VSOCK: Final = re.compile(r"vsock:[0-9]{1,10}:[0-9]{1,10}", re.ASCII)

_FORMS: Final = "write host:port or unix:/path, as 127.0.0.1:50051"
_SEVERAL: Final = (
    "several are IPv4 or IPv6 addresses with their ports, separated by commas; a name that has "
    "several is dns:///name:port"
)


@dataclass(frozen=True, slots=True)
class Address:
    """An address whose only reading is known."""

    target: str
    """The target for gRPC."""
    hosts: tuple[str, ...] = ()
    """Host names and IP addresses without brackets and ports; none for a socket of this machine."""
    authority: str = ""
    """`host:port` of the first, if several servers may be behind the address."""
    several: bool = False
    """True if the address lists more than one server."""

    def is_loopback(self) -> bool:
        """Return True if gRPC can reach only this machine at the address.

        `localhost` is resolved: a machine whose host table sends it elsewhere is not believed.
        """
        return all(map(_is_loopback, self.hosts))


def parse(text: str) -> Address:
    """Return the address. Raises InvalidArgument, with the accepted forms, for any other text."""
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
            raise _invalid(f"the brackets hold no IPv6 address; {_FORMS}")
    elif len(host) > _NAME_MAX or not _NAME.fullmatch(host):
        raise _invalid(f"the host is no name and no IP address; {_FORMS}")
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
    found = _ip(host, "ipv4") or _ip(host, "ipv6")
    if found is None:
        return host.lower() == "localhost" and _resolves_to_loopback(host)  # RFC 6761, section 6.3
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def _resolves_to_loopback(name: str) -> bool:
    try:
        found = socket.getaddrinfo(name, None, proto=socket.IPPROTO_TCP)
    except OSError:
        return True  # without an address nothing is sent
    return all(ipaddress.ip_address(str(sockaddr[0])).is_loopback for *_, sockaddr in found)


def _invalid(description: str) -> InvalidArgument:
    return InvalidArgument(
        f"address: {description}", fields=[FieldViolation("address", description)]
    )
