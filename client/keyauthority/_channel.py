"""What a channel to the authority is given, and the credential that calls carry on it.

It reads certificates' files, and makes no connection.
"""

from __future__ import annotations

import ipaddress
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from keyauthority.errors import InvalidArgument

DEFAULT_ADDRESS: Final = "127.0.0.1:50051"
DEFAULT_TIMEOUT: Final = 5.0  # seconds; many times what a busy server needs, less than people wait
Metadata = tuple[tuple[str, str], ...]


_SCHEMES: Final = ("dns:", "ipv4:", "ipv6:", "unix:", "unix-abstract:", "vsock:")
_LITERAL: Final = {
    "ipv4": re.compile(r"[0-9.]+:[0-9]{1,5}", re.ASCII),
    "ipv6": re.compile(r"\[[0-9A-Fa-f:.]+\]:[0-9]{1,5}", re.ASCII),
}
_MESSAGE_MAX: Final = (
    64 * 1024 * 1024
)  # bytes; a page of 1000 keys with long lists passes gRPC's 4 MiB

_REPEATED: Final = {  # reads, and the writes of which a second attempt does no harm: see `Client`
    "keyauthority.v1.KeyAuthorityService": (
        "GetKey",
        "ListKeys",
        "Verify",
        "BatchVerify",
        "GetProjectId",
        "CreateKey",
        "RotateKey",
        "RevokeKey",
    ),
    "keyauthority.v1.ProjectService": ("GetProject", "ListProjects", "CreateProject"),
    "keyauthority.v1.UsageService": ("GetUsage", "ReportUsage"),
    "keyauthority.v1.AuditService": ("ListEvents",),
}
_SERVICE_CONFIG: Final = {
    # No `timeout` here: gRPC would fail every call of a second or less at once.
    "methodConfig": [
        {
            "name": [
                {"service": service, "method": method}
                for service, methods in _REPEATED.items()
                for method in methods
            ],
            "retryPolicy": {
                "maxAttempts": 4,
                "initialBackoff": "0.05s",
                "maxBackoff": "1s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
    # A server that fails most calls is not asked four times as often.
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}
_BALANCED: Final = _SERVICE_CONFIG | {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": ""},  # those that drain are left out
}
CHANNEL_OPTIONS: Final = (
    ("grpc.enable_retries", 1),
    ("grpc.enable_http_proxy", 0),  # credentials go to the address that was named, by no other way
    ("grpc.max_receive_message_length", _MESSAGE_MAX),
    # A connection that says nothing while calls wait is dead, whatever TCP thinks: 8 s, not hours.
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),  # a watch sends nothing, and needs them most
    # A server that is back is found within a second; by itself gRPC waits for up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # how long an attempt may take
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How a client knows its authority, and shows who it is itself: PEM, as paths or as bytes.

    `ca` holds the certificates that may vouch for the authority; without it those of gRPC's own
    list may, which knows the public ones. `cert` and `key` are the client's own certificate, with
    those between it and its issuer's, and the key to it: for an authority that demands one. Files
    are read when a client is made.
    """

    ca: str | Path | bytes | None = None
    cert: str | Path | bytes | None = field(default=None, repr=False)
    key: str | Path | bytes | None = field(default=None, repr=False)


class Handshake(NamedTuple):
    """What a channel is made with, in PEM, in gRPC's order."""

    root_certificates: bytes | None
    private_key: bytes | None
    certificate_chain: bytes | None

    def __repr__(self) -> str:
        return "Handshake(...)"


class Target(NamedTuple):
    """Where a channel leads to, and what it is told."""

    address: str
    options: tuple[tuple[str, str | int], ...]


def target(address: str, tls: Tls | bool) -> Target:
    """Return what gRPC is given for an address as users write it. InvalidArgument if it is none.

    Calls take turns over several addresses, and over all that a name behind `dns:///` has, and
    leave out those of which the health service says that they do not serve.
    """
    several = "," in address and not address.startswith(_SCHEMES)
    if several and tls is not False:
        raise InvalidArgument(
            "address: no certificate names several; use a name that has them all: dns:///name:port"
        )
    if several:
        address = f"{_family(address.split(','))}:{address}"
    balanced = several or address.startswith(("dns:", "ipv4:", "ipv6:"))
    options: tuple[tuple[str, str | int], ...] = (
        ("grpc.service_config", json.dumps(_BALANCED if balanced else _SERVICE_CONFIG)),
        *CHANNEL_OPTIONS,
    )
    if balanced:  # named, for gRPC leaves it out when it watches health, and takes a list for one
        first = address.partition(":")[2].rpartition("/")[2].partition(",")[0]
        options += (("grpc.default_authority", first),)
    return Target(address, options)


def _family(addresses: list[str]) -> str:
    for family, pattern in _LITERAL.items():
        if all(map(pattern.fullmatch, addresses)):
            return family
    raise InvalidArgument(
        "address: several are written as IPv4 or IPv6 addresses with their ports, separated by "
        "commas; a name that has several is dns:///name:port"
    )


def handshake(address: str, tls: Tls | bool, *, allow_plaintext: bool) -> Handshake | None:
    """Return what a TLS channel is made with, None for plaintext. InvalidArgument if it cannot be.

    Plaintext shows every key to whoever is on the way: beyond this machine it is for those only who
    say so.
    """
    if tls is False:
        if not (allow_plaintext or is_local(address)):
            raise InvalidArgument(
                "address: is not on this machine, and keys would cross the network in plaintext: "
                "use TLS, or allow plaintext"
            )
        return None
    given = Tls() if tls is True else tls
    if (given.cert is None) != (given.key is None):
        raise InvalidArgument("tls: cert and key belong together")
    return Handshake(_pem("ca", given.ca), _pem("key", given.key), _pem("cert", given.cert))


def is_local(address: str) -> bool:
    """True if only this machine can be meant, by gRPC's way to write addresses."""
    scheme, colon, rest = address.partition(":")
    if colon and scheme in ("unix", "unix-abstract"):
        return True
    if colon and scheme in ("dns", "ipv4", "ipv6"):
        address = rest.rpartition("/")[2]
    return all(map(_is_loopback, address.split(",")))


def _is_loopback(address: str) -> bool:
    host = address
    if address.startswith("["):
        host = address[1:].partition("]")[0]
    elif address.count(":") == 1:
        host = address.partition(":")[0]
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return host.lower() == "localhost"  # RFC 6761, section 6.3
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def _pem(name: str, given: str | Path | bytes | None) -> bytes | None:
    if given is None:
        return None
    if isinstance(given, bytes):
        content = given
    else:
        try:
            content = Path(given).read_bytes()
        except (OSError, ValueError) as error:
            cause = error.strerror if isinstance(error, OSError) else "is no path"
            raise InvalidArgument(f"tls: {name}: {cause}") from None
    if b"-----BEGIN " not in content:
        raise InvalidArgument(f"tls: {name}: is no PEM")
    return content


def metadata(operator_key: str | None) -> Metadata:
    """Return the metadata that carries the credential. InvalidArgument if it can be none."""
    if operator_key is None:
        return ()
    if not operator_key or not operator_key.isascii() or not operator_key.isprintable():
        raise InvalidArgument("operator_key: is no operator key")  # and is not shown
    return (("authorization", "Bearer " + operator_key),)
