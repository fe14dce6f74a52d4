"""TLS on grpcio: certificates that are looked at each second, and the callers they stand for.

TLS 1.2 and 1.3, which are all that grpcio speaks. A handshake is made with the files as they were
last found fit; connections that are open keep what they were made with, up to their greatest age.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

import grpc
import structlog

from keyauthority.clock import Clock
from keyauthority_server.certificates import TlsMaterial, client_names, load, signature
from keyauthority_server.config import (
    CertificateCaller,
    ConfigError,
    TlsFiles,
    TransientError,
)
from keyauthority_server.rpc_types import Certificate

LOOK_SECONDS: Final = 1  # how long a changed file may go unnoticed

_CERTIFICATES_KEPT: Final = 1_024  # that need not be read again, some 2 KB each

_log = structlog.get_logger(__name__)


class Handshakes:
    """The credentials of a server, which follow its files."""

    def __init__(self, files: TlsFiles, clock: Clock) -> None:
        """Read the files; ConfigError if they are not fit to be served."""
        self._files = files
        self._clock = clock
        self._seen = signature(files)
        self._complaint = ""
        self._next: deque[grpc.ServerCertificateConfiguration] = deque(maxlen=1)
        first = load(files, clock.now())
        self.credentials = grpc.dynamic_ssl_server_credentials(
            _configuration(first),
            self._changed,  # type: ignore[arg-type]  # None is a documented answer
            require_client_authentication=bool(first.client_ca),
        )

    async def follow(self) -> None:
        """Take the files over whenever they change, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Take the files over if they have changed; what is not fit is logged and not taken."""
        found = signature(self._files)
        if found == self._seen:
            return
        try:
            material = load(self._files, self._clock.now())
        except (ConfigError, TransientError) as error:
            if str(error) != self._complaint:  # tried again each second, told once
                _log.error("certificate_not_taken_over", reason=str(error))
            self._complaint = str(error)
            return
        self._next.append(_configuration(material))
        self._seen, self._complaint = found, ""
        _log.info("certificate_taken_over", expires=material.end.isoformat())

    def _changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what handshakes are made with from now on; None if that is as before.

        Called at the start of each handshake, in a thread of grpcio's.
        """
        try:
            return self._next.pop()
        except IndexError:
            return None


class Callers:
    """Finds the callers that a verified certificate stands for."""

    def __init__(self, entries: Iterable[CertificateCaller]) -> None:
        self._entries = {(entry.kind, entry.san): entry for entry in entries}
        self._of_certificate = lru_cache(maxsize=_CERTIFICATES_KEPT)(self._read)

    def __bool__(self) -> bool:
        return bool(self._entries)

    def of(self, peer: Mapping[str, Iterable[bytes]]) -> tuple[Certificate, ...]:
        """Return those that are named by the certificate that grpcio tells of a connection."""
        pems = tuple(peer.get("x509_pem_cert", ()))
        return self._of_certificate(pems[0]) if len(pems) == 1 else ()

    def _read(self, pem: bytes) -> tuple[Certificate, ...]:
        try:
            names, end = client_names(pem)
        except ValueError as error:
            _log.warning("client_certificate_refused", reason=str(error))
            return ()
        found = [entry for name, entry in self._entries.items() if name in names]
        return tuple(Certificate(one.san, one.permissions, one.projects, end) for one in found)


def _configuration(material: TlsMaterial) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(material.key, material.chain)], material.client_ca
    )
