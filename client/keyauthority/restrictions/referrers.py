"""Referrers and referrer patterns, compared after parsing.

The length of every part is checked before it is processed, since IDNA conversion takes quadratic
time. The host of a referrer is never converted: a pattern stores its host in both forms.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from encodings.idna import nameprep
from typing import Final, NamedTuple

from keyauthority.restrictions.addresses import parse_address
from keyauthority.text import DNS_NAME

REFERRER_MAX: Final = 4_096  # characters; browsers reduce longer ones to the origin
HOST_MAX: Final = 253  # characters, RFC 1035 2.3.4 without the root label
LABEL_MAX: Final = 63  # characters, RFC 1035 2.3.4

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_PORT_MAX: Final = 65_535
_OTHER_DOTS = "\u3002\uff0e\uff61"  # label separators of IDNA (RFC 3490, 3.1)
_UNICODE_LABEL = rf"(?:[a-z0-9_-]|[^\x00-\x7f{_OTHER_DOTS}]){{1,{LABEL_MAX}}}"
_UNICODE_HOST: Final = re.compile(rf"{_UNICODE_LABEL}(?:\.{_UNICODE_LABEL})*")
_PARTS: Final = re.compile(
    r"(?:(?P<scheme>[a-z][a-z0-9+.-]*):)?//(?P<authority>[^/?#]*)(?P<path>[^?#]*)",
    re.IGNORECASE | re.ASCII,
)
_AUTHORITY: Final = re.compile(
    r"(?:\[(?P<ipv6>[0-9a-f:.]+)\]|(?P<name>[^][:@%]+))(?::(?P<port>[0-9]{1,5}))?",
    re.IGNORECASE | re.ASCII,
)
_UNSAFE_PATH: Final = re.compile(r"(?:^|/)(?:\.|%2e){1,2}(?:/|$)", re.IGNORECASE | re.ASCII)
_UNSAFE_TEXT: Final = re.compile(r"[\x00-\x20\x7f\\]")


class Referrer(NamedTuple):
    """The compared parts of a referrer, each in canonical form."""

    scheme: str
    host: str
    port: int | None
    path: str


class Pattern(NamedTuple):
    """A pattern of allowed referrers."""

    scheme: str
    """Empty: http and https."""
    host: str
    """In ASCII. With `below`, it begins with a dot."""
    unicode_host: str
    """The host in Unicode; equal to `host` for a name without xn--."""
    below: bool
    """True to match all names that end in the host."""
    port: int | None
    """None: the default port of the scheme."""
    path: str
    prefix: bool
    """True to match all paths that begin with the path."""


def parse_referrer(text: str) -> Referrer | None:
    """Parse a referrer; return None for an invalid one."""
    if len(text) > REFERRER_MAX or _UNSAFE_TEXT.search(text):
        return None
    parts = _PARTS.match(text)
    if parts is None or not parts["scheme"] or _UNSAFE_PATH.search(parts["path"]):
        return None
    try:
        host, port = _host_and_port(parts["authority"])
    except ValueError:
        return None
    scheme = parts["scheme"].lower()
    return Referrer(scheme, host, port or _DEFAULT_PORTS.get(scheme), parts["path"] or "/")


def parse_pattern(text: str) -> Pattern:
    """Parse a pattern. Raises ValueError with the violated rule.

    The scheme defaults to http and https, the port to the default port of the scheme.
    """
    if len(text) > REFERRER_MAX:
        raise ValueError(f"at most {REFERRER_MAX} characters")
    if _UNSAFE_TEXT.search(text):
        raise ValueError("white space, control characters and backslashes are not part of a URL")
    if "?" in text or "#" in text:
        raise ValueError("a pattern has no query and no fragment")
    parts = _PARTS.match(text if "://" in text else f"//{text}")
    if parts is None:
        raise ValueError("not a URL, such as https://shop.example/*")
    authority, path = parts["authority"], parts["path"]
    if "@" in authority:
        raise ValueError("user information is not allowed in a referrer")
    below = authority.startswith("*.")
    host, port = _host_and_port(authority.removeprefix("*."))
    if below and ":" in host:
        raise ValueError("*. stands in front of a name, not of an address")
    unicode_host = _in_unicode(host) if host.isascii() else host
    host, dot = _in_ascii(host), "." if below else ""
    if "*" in path[:-1] or _UNSAFE_PATH.search(path):
        raise ValueError("a * stands only at the end of the path, which has no dot segments")
    return Pattern(
        (parts["scheme"] or "").lower(),
        dot + host,
        dot + unicode_host,
        below,
        port,
        path.removesuffix("*") if path else "/",
        not path or path.endswith("*"),
    )


def check_referrer(text: str) -> None:
    """Raise ValueError unless `text` is a valid pattern of scheme, host, port and path."""
    parse_pattern(text)


def matches_any(patterns: Sequence[Pattern], actual: Referrer) -> bool:
    """Return True if one of the patterns matches the referrer."""
    actual_scheme, actual_host, actual_port, actual_path = actual
    default_port = _DEFAULT_PORTS.get(actual_scheme)
    for pattern in patterns:
        scheme, host, unicode_host, below, port, path, prefix = pattern
        if (
            (
                (actual_host.endswith(host) or _is_below(actual_host, unicode_host))
                if below
                else actual_host in (host, unicode_host)
            )
            and (actual_path.startswith(path) if prefix else actual_path == path)
            and actual_port == (port or default_port)
            and (actual_scheme == scheme if scheme else default_port is not None)
        ):
            return True
    return False


def _is_below(actual_host: str, unicode_host: str) -> bool:
    """Return True for a name that ends in the host and that IDNA leaves unchanged."""
    return actual_host.endswith(unicode_host) and all(map(_is_prepared, actual_host.split(".")))


def _host_and_port(authority: str) -> tuple[str, int | None]:
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None:
        raise ValueError(_violation(authority))
    port = int(parts["port"]) if parts["port"] else None
    if port is not None and not 0 < port <= _PORT_MAX:
        raise ValueError(f"a port is a number from 1 to {_PORT_MAX}")
    if parts["ipv6"]:
        return _ipv6(parts["ipv6"]), port
    return _host(parts["name"]), port


def _violation(authority: str) -> str:
    """Return the rule violated by an authority that cannot be split into host and port."""
    _, colon, port = authority.rpartition(":")
    if not authority:
        return "a host is required, such as https://shop.example/*"
    if "%" in authority:
        return "a host has no escapes and no zone"
    if colon and "]" not in port and not (port.isascii() and port.isdigit() and len(port) <= 5):
        return f"a port is a number from 1 to {_PORT_MAX}; it has no wildcard"
    return "the host is not a name, an IPv4 address or an IPv6 address in brackets"


def _ipv6(text: str) -> str:
    address = parse_address(text)
    if address is None or ":" not in text:
        raise ValueError("not an IPv6 address in brackets, such as [2001:db8::7]")
    return f"[{address:x}]:"  # canonical; the colon distinguishes it from a name


def _host(text: str) -> str:
    host = text.lower().removesuffix(".")
    if len(host) > HOST_MAX:
        raise ValueError(f"a host has at most {HOST_MAX} characters")
    if max(map(len, host.split("."))) > LABEL_MAX:
        raise ValueError(f"the parts of a host have at most {LABEL_MAX} characters each")
    if "*" in host:
        raise ValueError("a * stands only at the front of the host, as *.shop.example")
    if (DNS_NAME if host.isascii() else _UNICODE_HOST).fullmatch(host) is None:
        raise ValueError("the host is not a name of letters, digits and hyphens")
    return host


def _in_ascii(host: str) -> str:
    """Return the host in ASCII by IDNA 2003 (RFC 3490)."""
    if host.isascii():
        return host
    labels, length = [], 0
    for label in host.split("."):
        if not _is_prepared(label):
            raise ValueError(
                "the host has letters that IDNA replaces by others: write it in ASCII, as xn--…"
            )
        encoded = label if label.isascii() else f"xn--{label.encode('punycode').decode()}"
        length += len(encoded) + 1
        if len(encoded) > LABEL_MAX or length > HOST_MAX + 1:
            raise ValueError("the host is longer in ASCII, as xn--…, than a host may be")
        labels.append(encoded)
    return ".".join(labels)


def _in_unicode(host: str) -> str:
    """Return an ASCII host in Unicode; unchanged if it cannot be decoded."""
    if "xn--" not in host:
        return host
    try:
        return host.encode().decode("idna")
    except UnicodeError:
        return host


def _is_prepared(label: str) -> bool:
    """Return True if IDNA leaves every character of the label unchanged (RFC 3491)."""
    try:
        return label.isascii() or (not label.startswith("xn--") and nameprep(label) == label)
    except UnicodeError:
        return False
