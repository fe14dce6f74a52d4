"""The files that TLS is served with: read, and found fit to be served, or refused in one line."""

from __future__ import annotations

import os
import stat
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from keyauthority_server.config import ConfigError, TlsFiles, refusal
from keyauthority_server.private_files import GROUP_READS, open_private

_FILE_MAX: Final = 1024 * 1024  # bytes; the authorities of a whole browser take a quarter of that

Signature = tuple[tuple[int, ...], ...]


class Material(NamedTuple):
    """What handshakes are made with, in PEM."""

    chain: bytes
    key: bytes
    client_ca: bytes | None
    end: datetime
    """When the certificate expires."""

    def __repr__(self) -> str:
        return f"Material(end={self.end.isoformat()})"


def load(files: TlsFiles, now: datetime) -> Material:
    """Return what the files hold, fit to be served now.

    Raises ConfigError, and TransientError for an error of the system that may pass.
    """
    chain = _read(files.cert)
    key = _read(files.key, secret=True)
    client_ca = _read(files.client_ca) if files.client_ca else None
    certificate = _certificates(files.cert, chain)[0]
    if certificate.not_valid_after_utc <= now:
        raise ConfigError(f"the certificate in {files.cert} expired {_day(certificate)}")
    if certificate.not_valid_before_utc > now:
        raise ConfigError(f"the certificate in {files.cert} is not valid yet")
    try:
        private = load_pem_private_key(key, password=None)
    except TypeError:
        raise ConfigError(f"the key in {files.key} is encrypted: it must not be") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{files.key} holds no private key in PEM") from None
    if private.public_key() != certificate.public_key():
        raise ConfigError(f"the key in {files.key} is not that of the certificate in {files.cert}")
    if files.client_ca and client_ca is not None:
        _certificates(files.client_ca, client_ca)
    return Material(chain, key, client_ca, certificate.not_valid_after_utc)


def signature(files: TlsFiles) -> Signature:
    """Return what changes when one of the files is written or replaced."""
    return tuple(map(_signature, files.paths()))


def _signature(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode)


def _read(path: Path, *, secret: bool = False) -> bytes:
    try:
        if secret:  # a link, in Kubernetes; the group of ssl-cert, in Debian
            opened = open_private(path, follow=True, group=GROUP_READS, any_group=True)
        else:
            opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(opened, "rb") as file:
            if not stat.S_ISREG(os.fstat(opened).st_mode):
                raise ConfigError(f"{path} is no file")
            content = file.read(_FILE_MAX + 1)
    except OSError as error:
        raise refusal(error, f"cannot read {path}") from error
    if len(content) > _FILE_MAX:
        raise ConfigError(f"{path} is too large for certificates")
    return content


def _certificates(path: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ConfigError(f"{path} holds no certificate in PEM") from None


def _day(certificate: x509.Certificate) -> str:
    return certificate.not_valid_after_utc.date().isoformat()
