"""The credentials of a grpcio server, which follow its TLS files."""

from __future__ import annotations

from collections import deque

import grpc

from keyauthority.clock import Clock
from keyauthority_server.certificates import TlsMaterial
from keyauthority_server.config import TlsFiles
from keyauthority_server.transport.tls import FollowedFiles


class Handshakes:
    """Makes the handshakes of grpcio. It supports TLS 1.2 and 1.3 only."""

    def __init__(self, files: TlsFiles, clock: Clock) -> None:
        """Read the files; ConfigError if they are not valid."""
        self._next: deque[TlsMaterial] = deque(maxlen=1)
        self.files = FollowedFiles(files, clock, self._next.append)
        first = self._next.pop()
        self.credentials = grpc.dynamic_ssl_server_credentials(
            _configuration(first),
            self._changed,  # type: ignore[arg-type]  # None is a documented answer
            require_client_authentication=bool(first.client_ca),
        )

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return the configuration of handshakes from now on; None if it is as before.

        Called at the start of each handshake, in a thread of grpcio's.
        """
        try:
            return _configuration(self._next.pop())
        except IndexError:
            return None


def _configuration(material: TlsMaterial) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.chain)], material.client_ca
    )
