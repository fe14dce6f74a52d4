"""TLS files that are looked at each second, and the callers that client certificates stand for.

A handshake is made with the files as they were last found valid. Open connections keep those of
their handshake, up to their greatest age. `tls_front` and `grpcio` make the handshakes.
"""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Final

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
_CERTIFICATE: Final = "x509_pem_cert"  # grpcio's name for it

# AEAD with forward secrecy: RFC 9113, section 9.2.2, forbids the others. TLS 1.3 has its own.
_CIPHERS: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
_CERTIFICATES_KEPT: Final = 1_024  # that need not be read again, some 2 KB each

_log = structlog.get_logger(__name__)


class FollowedFiles:
    """Has handshakes follow the files of a server."""

    def __init__(
        self, files: TlsFiles, clock: Clock, take_over: Callable[[TlsMaterial], None]
    ) -> None:
        """Read the files; ConfigError if they are not valid.

        `take_over` is called with them at once and after each change, in any thread. It raises
        ConfigError if handshakes cannot be made with them.
        """
        self._files = files
        self._clock = clock
        self._take_over = take_over
        self._seen = signature(files)
        self._complaint = ""
        material = load(files, clock.now())
        take_over(material)
        self.end = material.end
        """When the certificate in use expires."""

    async def follow(self) -> None:
        """Take the files over whenever they change, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await asyncio.to_thread(self.look)

    def look(self) -> None:
        """Take the files over if they have changed; invalid ones are logged and not taken."""
        found = signature(self._files)
        if found == self._seen:
            return
        try:
            material = load(self._files, self._clock.now())
            self._take_over(material)
        except (ConfigError, TransientError) as error:
            if str(error) != self._complaint:  # tried again each second, logged once
                _log.error("certificate_not_taken_over", reason=str(error))
            self._complaint = str(error)
            return
        self._seen, self._complaint, self.end = found, "", material.end
        _log.info("certificate_taken_over", expires=material.end.isoformat())


class CallerResolver:
    """Finds the callers that a verified certificate stands for."""

    def __init__(self, entries: Iterable[CertificateCaller]) -> None:
        self._entries = {(entry.kind, entry.san): entry for entry in entries}
        self._of_certificate = lru_cache(maxsize=_CERTIFICATES_KEPT)(self._read)

    def __bool__(self) -> bool:
        return bool(self._entries)

    def of_grpcio(self, peer: Mapping[str, Iterable[bytes]]) -> tuple[Certificate, ...]:
        """Return the callers named by a connection's certificate, described as by grpcio."""
        pems = tuple(peer.get(_CERTIFICATE, ()))
        return self._of_certificate(pems[0]) if len(pems) == 1 else ()

    def of_session(self, session: ssl.SSLObject | None) -> tuple[Certificate, ...]:
        """Return the callers named by the certificate of a TLS session; none without a session."""
        der = session.getpeercert(binary_form=True) if session and self._entries else None
        return self._of_certificate(ssl.DER_cert_to_PEM_cert(der).encode()) if der else ()

    def _read(self, pem: bytes) -> tuple[Certificate, ...]:
        try:
            names, end = client_names(pem)
        except ValueError as error:
            _log.warning("client_certificate_refused", reason=str(error))
            return ()
        found = [entry for name, entry in self._entries.items() if name in names]
        return tuple(
            Certificate(caller.san, caller.permissions, caller.projects, end) for caller in found
        )


def server_context(material: TlsMaterial, protocol: str) -> ssl.SSLContext:
    """Return the context of a server of one ALPN protocol; ConfigError if OpenSSL refuses it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_TICKET | ssl.OP_CIPHER_SERVER_PREFERENCE
    context.num_tickets = 0  # no session outlives the certificates of its handshake
    context.set_ciphers(_CIPHERS)
    context.set_alpn_protocols([protocol])
    try:
        file = os.memfd_create("tls", os.MFD_CLOEXEC)  # OpenSSL reads files only
        try:
            os.write(file, material.chain + b"\n" + material.key)
            context.load_cert_chain(f"/proc/self/fd/{file}")
        finally:
            os.close(file)
        if material.client_ca:
            context.load_verify_locations(cadata=material.client_ca.decode("ascii", "replace"))
            context.verify_mode = ssl.CERT_REQUIRED
            # A listed authority is trusted even if its own issuer is not, as with grpcio.
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    except ssl.SSLError as error:
        raise ConfigError(f"OpenSSL refuses the certificate: {error.reason or error}") from error
    return context
