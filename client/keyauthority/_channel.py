"""Options, certificates and call credentials of a channel to the authority.

It reads certificate files and opens no connection.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from keyauthority._address import Address
from keyauthority.errors import InvalidArgument
from keyauthority.secret_files import warn_if_open

DEFAULT_ADDRESS: Final = "127.0.0.1:50051"
DEFAULT_TIMEOUT: Final = 5.0  # seconds; far above the latency of a busy server, below user patience
Metadata = tuple[tuple[str, str], ...]

_MESSAGE_MAX: Final = (
    64 * 1024 * 1024
)  # bytes; a page of 1000 keys with long lists passes gRPC's 4 MiB

_RETRIED: Final = {  # reads, and the writes that are safe to repeat: see `Client`
    "keyauthority.v1.KeyAuthorityService": (
        "GetKey",
        "ListKeys",
        "Verify",
        "BatchVerify",
        "GetProjectId",
        "LookupKey",
        "ImportKeys",
        "GetCaller",
        "CreateKey",
        "RotateKey",
        "RevokeKey",
    ),
    "keyauthority.v1.ProjectService": ("GetProject", "ListProjects", "CreateProject"),
    "keyauthority.v1.UsageService": ("GetUsage", "ReportUsage"),
    "keyauthority.v1.AuditService": ("ListEvents",),
    "keyauthority.v1.AdvisoryService": ("ListAdvisories",),
}
_SERVICE_CONFIG: Final = {
    # No `timeout` here: gRPC would fail every call of a second or less at once.
    "methodConfig": [
        {
            "name": [
                {"service": service, "method": method}
                for service, methods in _RETRIED.items()
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
    # Stops retries to a server that fails most calls.
    "retryThrottling": {"maxTokens": 10, "tokenRatio": 0.1},
}
_BALANCED: Final = _SERVICE_CONFIG | {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": ""},  # excludes draining servers
}
CHANNEL_OPTIONS: Final = (
    ("grpc.enable_retries", 1),
    # Credentials go only to the given address; proxies from the environment are ignored.
    ("grpc.enable_http_proxy", 0),
    ("grpc.address_http_proxy_enabled_addresses", ""),
    ("grpc.max_receive_message_length", _MESSAGE_MAX),
    # A connection that is silent while calls wait is closed after 8 s; TCP would take hours.
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),  # unlimited: an idle watch sends no data
    # A restarted server is found within a second; gRPC's default backoff reaches two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # the timeout of one connection attempt
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """TLS certificates of a client, in PEM, as paths or bytes.

    `ca` holds the trusted root certificates (default: gRPC's list of public roots). `cert` and
    `key` are the client certificate chain and its private key, for an authority that requires a
    client certificate; pass both or neither. Files are read when the client is created, which
    raises InvalidArgument for a file that cannot be read or is not PEM.
    """

    ca: str | Path | bytes | None = None
    cert: str | Path | bytes | None = field(default=None, repr=False)
    key: str | Path | bytes | None = field(default=None, repr=False)


class ChannelCredentials(NamedTuple):
    """Credentials of a TLS channel, in PEM, in gRPC's argument order."""

    root_certificates: bytes | None
    private_key: bytes | None
    certificate_chain: bytes | None

    def __repr__(self) -> str:
        return "ChannelCredentials(...)"


class Target(NamedTuple):
    """Target address and options of a channel."""

    address: str
    options: tuple[tuple[str, str | int], ...]


def target(address: Address, tls: Tls | bool) -> Target:
    """Return the target and options of a channel. Raises InvalidArgument for a list with TLS.

    Calls are balanced over all listed addresses, or all addresses of a `dns:///` name, whose
    health service reports SERVING.
    """
    if address.several and tls is not False:
        raise InvalidArgument(
            "address: a list is not supported with TLS, since no certificate covers it: use "
            "dns:///name:port, a name that resolves to all servers"
        )
    config = _BALANCED if address.authority else _SERVICE_CONFIG
    options: tuple[tuple[str, str | int], ...] = (
        ("grpc.service_config", json.dumps(config)),
        *CHANNEL_OPTIONS,
    )
    if address.authority:  # gRPC omits it when it watches health, and takes a list for one
        options += (("grpc.default_authority", address.authority),)
    return Target(address.target, options)


def credentials(
    address: Address, tls: Tls | bool, *, allow_plaintext: bool
) -> ChannelCredentials | None:
    """Return the credentials of a TLS channel; None for plaintext.

    Raises InvalidArgument for plaintext to another machine without `allow_plaintext`, since it
    exposes every key on the network, and for certificates that cannot be used.
    """
    if tls is False:
        if not (allow_plaintext or address.is_loopback()):
            raise InvalidArgument(
                "address: is not on this machine, and keys would cross the network in plaintext: "
                "use TLS, or allow plaintext"
            )
        return None
    files = Tls() if tls is True else tls
    if (files.cert is None) != (files.key is None):
        raise InvalidArgument("tls: cert and key belong together")
    return ChannelCredentials(
        _pem("ca", files.ca), _pem("key", files.key), _pem("cert", files.cert)
    )


def _pem(name: str, source: str | Path | bytes | None) -> bytes | None:
    if source is None:
        return None
    if isinstance(source, bytes):
        content = source
    else:
        try:
            content = Path(source).read_bytes()
        except (OSError, ValueError) as error:
            cause = error.strerror if isinstance(error, OSError) else "is not a path"
            raise InvalidArgument(f"tls: {name}: {cause}") from None
        if name == "key":
            warn_if_open(source)
    held, label = (
        ("private key", b"PRIVATE KEY") if name == "key" else ("certificate", b"CERTIFICATE")
    )
    if re.search(rb"-----BEGIN [A-Z0-9 ]*" + label + b"-----", content) is None:
        raise InvalidArgument(f"tls: {name}: holds no {held} in PEM")
    return content


def metadata(operator_key: str | None) -> Metadata:
    """Return the call metadata with the credential. Raises InvalidArgument for an unusable key.

    Surrounding white space, common in files and environment variables, is stripped.
    """
    if operator_key is None:
        return ()
    operator_key = operator_key.strip()
    if not operator_key or not operator_key.isascii() or not operator_key.isprintable():
        raise InvalidArgument("operator_key: is not an operator key")  # never include its text
    return (("authorization", "Bearer " + operator_key),)
