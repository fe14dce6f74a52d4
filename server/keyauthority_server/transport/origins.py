"""The origin of calls that reach the native server through the TLS endpoint.

The endpoint marks the first calls of a connection with a secret of that connection. By it the
native server learns which of its own connections that is, and with it peer and certificate. A call
over any other connection has no origin, even if its client reaches the socket in between.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final, NamedTuple

from keyauthority_server.rpc_types import Certificate, Metadata

MARK: Final = "x-keyauthority-connection"
SECRET_BYTES: Final = 16


class Origin(NamedTuple):
    """The client's side of a connection."""

    peer: str
    """In gRPC's notation."""
    certificates: tuple[Certificate, ...] = ()
    """The callers that its certificate names."""


class Origins:
    """The origins of open connections. Used in the event loop only."""

    def __init__(self) -> None:
        self.known: dict[str, Origin] = {}
        """By the name that the native server gives the connection behind."""
        self._expected: dict[str, tuple[Origin, Callable[[], None]]] = {}
        self._names: dict[str, str] = {}

    def add(self, origin: Origin, learned: Callable[[], None]) -> str:
        """Add a connection; return its secret. `learned` is called when its name is known."""
        secret = secrets.token_hex(SECRET_BYTES)
        self._expected[secret] = origin, learned
        return secret

    def remove(self, secret: str) -> None:
        """Remove a connection that has ended."""
        self._expected.pop(secret, None)
        self.known.pop(self._names.pop(secret, ""), None)

    def learn(self, name: str, metadata: Metadata) -> Origin | None:
        """Return the origin of a marked call, and know it by this name from now on.

        The mark comes last: what the client may have sent under the same name does not count.
        """
        secret = next((str(value) for key, value in reversed(metadata) if key == MARK), "")
        if secret not in self._expected:
            return None
        origin, learned = self._expected.pop(secret)
        self.known[name], self._names[secret] = origin, name
        learned()
        return origin
