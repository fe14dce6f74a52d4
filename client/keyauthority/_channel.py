"""What a channel to the authority is given, and the credential that calls carry on it. No I/O."""

from __future__ import annotations

import json
from typing import Final

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
CHANNEL_OPTIONS: Final = (
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.enable_retries", 1),
    ("grpc.enable_http_proxy", 0),  # credentials go to the address that was named, by no other way
    ("grpc.max_receive_message_length", _MESSAGE_MAX),
)


def metadata(operator_key: str | None) -> Metadata:
    """Return the metadata that carries the credential. InvalidArgument if it can be none."""
    if operator_key is None:
        return ()
    if not operator_key or not operator_key.isascii() or not operator_key.isprintable():
        raise InvalidArgument("operator_key: is no operator key")  # and is not shown
    return (("authorization", "Bearer " + operator_key),)
