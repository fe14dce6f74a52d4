"""Restrictions: reading addresses, referrers and certificates, and matching them.

Pure, standard library only. Each `check_…` raises ValueError with a sentence for people; each
`…_allowed` is asked with texts that were checked before, and answers False for a fact that is
missing or cannot be read.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

from keyauthority.model import AndroidApp, ApiTarget, ApiTargetRestriction, App, Restrictions

REFERRER_MAX: Final = 4_096  # characters; browsers cut longer ones down to the origin

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")  # RFC 4291, 2.5.5.2
_PREFIX_LENGTH: Final = re.compile(r"[0-9]{1,3}", re.ASCII)
_SHA1: Final = re.compile(r"[0-9a-f]{40}", re.ASCII)
_LABEL = r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?"
_HOST: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_NETLOC: Final = re.compile(r"(?:\[[0-9a-f:.]+\]|[^][:@%]+)(?::[0-9]+)?", re.IGNORECASE | re.ASCII)
_UNSAFE_PATH: Final = re.compile(r"(?:^|/)(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE | re.ASCII)
_UNSAFE_TEXT: Final = re.compile(r"[\x00-\x20\x7f\\]")


class _Referrer(NamedTuple):
    scheme: str
    host: str
    port: int | None
    path: str


def check_ip_or_network(text: str) -> None:
    """Raise ValueError unless `text` is an IPv4 or IPv6 address or CIDR block."""
    _network(text)


def check_ip(text: str) -> None:
    """Raise ValueError unless `text` is an IPv4 or IPv6 address."""
    _address(text)


def ip_allowed(allowed: Sequence[str], client_ip: str) -> bool:
    """True if the address lies in one of the blocks."""
    try:
        address = _address(client_ip)
    except ValueError:
        return False
    return any(address in _network(block) for block in allowed)


def ips_within(inner: Sequence[str], outer: Sequence[str]) -> bool:
    """True if each of the `inner` blocks lies in one of the `outer`; an empty list means all."""
    if not outer:
        return True
    blocks = [_network(block) for block in outer]
    return bool(inner) and all(
        any(_lies_in(_network(block), other) for other in blocks) for block in inner
    )


def _lies_in(
    inner: ipaddress.IPv4Network | ipaddress.IPv6Network,
    outer: ipaddress.IPv4Network | ipaddress.IPv6Network,
) -> bool:
    if isinstance(inner, ipaddress.IPv4Network):
        return isinstance(outer, ipaddress.IPv4Network) and inner.subnet_of(outer)
    return isinstance(outer, ipaddress.IPv6Network) and inner.subnet_of(outer)


@lru_cache(maxsize=65_536)
def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    if "%" in text:
        raise ValueError("an address with a zone has no meaning here")
    _, slash, length = text.partition("/")
    if slash and _PREFIX_LENGTH.fullmatch(length) is None:
        raise ValueError("a block is an address, / and the length of its prefix")
    network = ipaddress.ip_network(text, strict=False)
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        low = int(network.network_address) & 0xFFFF_FFFF
        return ipaddress.IPv4Network((low, network.prefixlen - 96))
    return network


@lru_cache(maxsize=65_536)
def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    address = ipaddress.ip_address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def check_referrer(text: str) -> None:
    """Raise ValueError unless `text` is scheme, host, port and path as the contract has them.

    Scheme and port may be left out: then http and https, and the scheme's own port, are meant.
    """
    _referrer_pattern(text)


def referrer_allowed(allowed: Sequence[str], referrer: str) -> bool:
    """True if the page that the client came from matches one of the patterns."""
    if len(referrer) > REFERRER_MAX:
        return False
    actual = _actual_referrer(referrer)
    return actual is not None and any(
        _referrer_matches(_referrer_pattern(pattern), actual) for pattern in allowed
    )


@lru_cache(maxsize=65_536)
def _referrer_pattern(text: str) -> _Referrer:
    if _UNSAFE_TEXT.search(text):
        raise ValueError("white space, control characters and backslashes are no part of a URL")
    parts = urlsplit(text if "://" in text else "//" + text)
    if "@" in parts.netloc:
        raise ValueError("user information is not allowed in a referrer")
    if "?" in text or "#" in text:
        raise ValueError("a referrer has no query and no fragment")
    wildcard = "*." if parts.netloc.startswith("*.") else ""
    host, port = _host_and_port(parts._replace(netloc=parts.netloc.removeprefix("*.")))
    if wildcard and ":" in host:
        raise ValueError("a *. stands in front of a name, not of an address")
    if "*" in parts.path[:-1] or _UNSAFE_PATH.search(parts.path):
        raise ValueError("a * stands only at the end of the path, which has no dot segments")
    return _Referrer(parts.scheme, wildcard + host, port, parts.path or "/*")


@lru_cache(maxsize=4_096)
def _actual_referrer(text: str) -> _Referrer | None:
    if _UNSAFE_TEXT.search(text):
        return None
    try:
        parts = urlsplit(text)
        host, port = _host_and_port(parts)
    except ValueError:
        return None
    if not parts.scheme or _UNSAFE_PATH.search(parts.path):
        return None
    if port is None:
        port = _DEFAULT_PORTS.get(parts.scheme)
    return _Referrer(parts.scheme, host, port, parts.path or "/")


def _host_and_port(parts: SplitResult) -> tuple[str, int | None]:
    if _NETLOC.fullmatch(parts.netloc) is None or parts.port == 0:
        raise ValueError("host or port is none")
    host = (parts.hostname or "").removesuffix(".")
    if parts.netloc.startswith("["):
        return str(ipaddress.IPv6Address(host)), parts.port
    name = host.encode("idna").decode("ascii") if not host.isascii() else host
    if name != host and name.encode("ascii").decode("idna") != host:
        raise ValueError("the host has letters that are read as others: write it as xn--…")
    if _HOST.fullmatch(name) is None:
        raise ValueError("the host is none, or has a * elsewhere than at its front, as *.")
    return name, parts.port


def _referrer_matches(pattern: _Referrer, actual: _Referrer) -> bool:
    if actual.scheme != pattern.scheme and (pattern.scheme or actual.scheme not in _DEFAULT_PORTS):
        return False
    if actual.port != (pattern.port or _DEFAULT_PORTS.get(actual.scheme)):
        return False
    if pattern.host.startswith("*."):
        if not actual.host.endswith(pattern.host[1:]):
            return False
    elif actual.host != pattern.host:
        return False
    if pattern.path.endswith("*"):
        return actual.path.startswith(pattern.path[:-1])
    return actual.path == pattern.path


def canonical_sha1(text: str) -> str:
    """Return a certificate's SHA-1 in lower case without colons; ValueError if it is none."""
    digits = text.replace(":", "").lower()
    if _SHA1.fullmatch(digits) is None:
        raise ValueError("a SHA-1 is 40 hexadecimal digits, with or without colons")
    return digits


def canonical(restrictions: Restrictions) -> Restrictions:
    """Return the restrictions as they are stored: the SHA-1 of each certificate canonical."""
    apps = tuple(
        AndroidApp(app.package, canonical_sha1(app.sha1)) for app in restrictions.android_apps
    )
    return replace(restrictions, android_apps=apps) if apps else restrictions


def android_app_allowed(allowed: Sequence[AndroidApp], app: App | None) -> bool:
    """True if package and certificate are those of one of the apps."""
    if app is None:
        return False
    try:
        sha1 = canonical_sha1(app.android_sha1)
    except ValueError:
        return False
    return AndroidApp(app.android_package, sha1) in allowed


def ios_app_allowed(allowed: Sequence[str], app: App | None) -> bool:
    """True if the bundle id is one of those."""
    return app is not None and app.ios_bundle_id in allowed


def target_allowed(allowed: Sequence[ApiTargetRestriction], target: ApiTarget | None) -> bool:
    """True if the service is named and, where methods are, the method too."""
    if target is None:
        return False
    return any(
        one.service == target.service
        and (
            not one.methods or any(_method_matches(method, target.method) for method in one.methods)
        )
        for one in allowed
    )


def _method_matches(pattern: str, method: str) -> bool:
    if not method:
        return False
    return method.startswith(pattern[:-1]) if pattern.endswith("*") else method == pattern
