"""What a channel to the authority is given, and the credential that calls carry on it.

It reads certificates' files, and makes no connection.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from keyauthority._address import Address
from keyauthority.errors import InvalidArgument

DEFAULT_ADDRESS: Final = "127.0.0.1:50051"
DEFAULT_TIMEOUT: Final = 5.0  # seconds; many times what a busy server needs, less than people wait
Metadata = tuple[tuple[str, str], ...]

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
    # Credentials go to the address that was named, whatever the environment says of proxies.
    ("grpc.enable_http_proxy", 0),
    ("grpc.address_http_proxy_enabled_addresses", ""),
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


class ChannelCredentials(NamedTuple):
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


def target(address: Address, tls: Tls | bool) -> Target:
    """Return the target and options of a channel. Raises InvalidArgument for a list with TLS.

    Calls take turns over several addresses, and over all addresses of a name behind `dns:///`,
    without those whose health service says that they do not serve.
    """
    if address.several and tls is not False:
        raise InvalidArgument(
            "address: no certificate names several; use a name that has them all: dns:///name:port"
        )
    config = _BALANCED if address.authority else _SERVICE_CONFIG
    options: tuple[tuple[str, str | int], ...] = (
        ("grpc.service_config", json.dumps(config)),
        *CHANNEL_OPTIONS,
    )
    if address.authority:  # gRPC omits it when it watches health, and takes a list for one
        options += (("grpc.default_authority", address.authority),)
    return Target(address.target, options)


def handshake(
    address: Address, tls: Tls | bool, *, allow_plaintext: bool
) -> ChannelCredentials | None:
    """Return the certificates of a TLS channel, None for plaintext. InvalidArgument if refused.

    Plaintext shows every key to anyone on the way: beyond this machine it must be asked for.
    """
    if tls is False:
        if not (allow_plaintext or address.is_loopback()):
            raise InvalidArgument(
                "address: is not on this machine, and keys would cross the network in plaintext: "
                "use TLS, or allow plaintext"
            )
        return None
    given = Tls() if tls is True else tls
    if (given.cert is None) != (given.key is None):
        raise InvalidArgument("tls: cert and key belong together")
    return ChannelCredentials(
        _pem("ca", given.ca), _pem("key", given.key), _pem("cert", given.cert)
    )


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
    """Return the metadata that carries the credential. InvalidArgument if it can be none.

    White space at both ends is dropped: it comes from files and variables, and no key has any.
    """
    if operator_key is None:
        return ()
    operator_key = operator_key.strip()
    if not operator_key or not operator_key.isascii() or not operator_key.isprintable():
        raise InvalidArgument("operator_key: is no operator key")  # and is not shown
    return (("authorization", "Bearer " + operator_key),)
