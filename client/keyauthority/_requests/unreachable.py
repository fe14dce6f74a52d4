"""Messages for transport failures, in the terms of addresses, TLS and certificates.

gRPC describes a failure in terms of its own layers. The patterns below are matched in order against
that description; they were recorded from real servers and are tested against them.
"""

from __future__ import annotations

import re
from typing import Final

CA: Final = "Tls(ca=…)"
"""The CA argument as programs write it; the command line shows its own option instead."""

_CAUSES: Final = (
    (
        "wrong_version_number",
        "{address} does not use TLS: connect without TLS, or start the server with it",
    ),
    (
        "not in peer certificate|hostname verification",
        "the certificate of {address} is for another name: connect by the name it is for",
    ),
    (
        "certificate_verify_failed|bad_signature",
        "the certificate of {address} is not from a trusted issuer: name its issuer's as {ca}",
    ),
    (
        "certificate_required|handshake_failure|bad_certificate|unknown_ca",
        "{address} demands a client certificate, or did not accept it",
    ),
    ("tls handshake failed", "no TLS connection to {address}: {details}"),
    (
        "lookup failed|errors resolving|dns resolution|name resolution|name not found",
        "cannot reach {address}: the name does not resolve",
    ),
    ("no such file", "cannot reach {address}: no such socket; is the server running?"),
    ("permission denied", "cannot reach {address}: no permission to open the socket"),
    ("connection refused", "cannot reach {address}; is the server running?"),
    (
        "socket closed|connection reset|endpoint closing|stream removed",
        "{address} closed the connection: it may use TLS, demand a certificate, or restart",
    ),
    (
        "expected settings frame|received http2 header with status|trying to connect an http1",
        "{address} is not a gRPC server; is it the right port?",
    ),
    (
        "failed to connect|connect failed|timed? ?out|unreachable",
        "cannot reach {address}; is the server running?",
    ),
)


def unavailable(address: str, details: str) -> str:
    """Return the message of a call that failed to reach the authority."""
    for pattern, message in _CAUSES:
        if re.search(pattern, details, re.IGNORECASE):
            return message.format(address=address, details=details, ca=CA)
    return f"cannot reach {address}: {details}" if details else f"cannot reach {address}"


def unanswered(address: str) -> str:
    """Return the message of a call that exceeded its deadline without a response."""
    return f"no answer from {address} in time"
