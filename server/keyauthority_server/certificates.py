"""The files that TLS is served with: read, and found fit to be served, or refused in one line."""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import PublicKeyAlgorithmOID

from keyauthority_server.config import ConfigError, SanKind, TlsFiles, refusal
from keyauthority_server.private_files import GROUP_READS, open_private

_FILE_MAX: Final = 1024 * 1024  # bytes; the authorities of a whole browser take a quarter of that

_RSA_BITS_MIN: Final = 2048  # NIST SP 800-57 part 1: 112 bits of security
_RSA_BITS_MAX: Final = 8192  # the most that BoringSSL, which gRPC is built on, takes
_CURVES: Final = frozenset({"secp256r1", "secp384r1"})  # P-256 and P-384
_SAN_KINDS: Final = (
    (x509.DNSName, SanKind.DNS),
    (x509.UniformResourceIdentifier, SanKind.URI),
    (x509.RFC822Name, SanKind.EMAIL),
)
_NAME: Final = re.compile(r"[!-~]+", re.ASCII)

Signature = tuple[tuple[int, ...], ...]


class TlsMaterial(NamedTuple):
    """What handshakes are made with, in PEM."""

    chain: bytes
    key: bytes
    client_ca: bytes | None
    end: datetime
    """When the certificate expires."""

    def __repr__(self) -> str:
        return f"Material(end={self.end.isoformat()})"


def load(files: TlsFiles, now: datetime) -> TlsMaterial:
    """Return what the files hold, fit to be served now.

    Raises ConfigError, and TransientError for an error of the system that may pass.
    """
    chain = _read(files.cert)
    key = _read(files.key, secret=True)
    client_ca = _read(files.client_ca) if files.client_ca else None
    certificates = _certificates(files.cert, chain)
    for one in certificates:
        if weakness := key_weakness(one):
            raise ConfigError(f"a certificate in {files.cert} has {weakness}")
    certificate = certificates[0]
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
    return TlsMaterial(chain, key, client_ca, certificate.not_valid_after_utc)


def key_weakness(certificate: x509.Certificate) -> str:
    """Return the reason why a certificate's key is not accepted; empty if it is.

    Accepted are the kinds that every TLS library takes, by name. gRPC's own refuses the others in
    the handshake, so that their certificates would cut off its clients.
    """
    kind = "a key of an unknown kind"
    with suppress(ValueError, UnsupportedAlgorithm):
        key = certificate.public_key()
        kind = f"a key of the kind {type(key).__name__.removesuffix('PublicKey').lstrip('_')}"
        if isinstance(key, ec.EllipticCurvePublicKey):
            if key.curve.name in _CURVES:
                return ""
            kind = f"a key on the curve {key.curve.name}"
        elif isinstance(key, rsa.RSAPublicKey):
            is_plain = (
                certificate.public_key_algorithm_oid == PublicKeyAlgorithmOID.RSAES_PKCS1_v1_5
            )
            if is_plain and _RSA_BITS_MIN <= key.key_size <= _RSA_BITS_MAX:
                return ""
            kind = f"an RSA key of {key.key_size} bits" if is_plain else "an RSA-PSS key"
    return f"{kind}: take RSA with {_RSA_BITS_MIN} to {_RSA_BITS_MAX} bits, P-256 or P-384"


class ClientNames(NamedTuple):
    """The subject alternative names of a client certificate, and its end."""

    names: frozenset[tuple[SanKind, str]]
    end: datetime


def client_names(pem: bytes) -> ClientNames:
    """Return the names that a verified client certificate can be known by.

    They are read from the certificate itself: a library that hands them over as C strings cuts
    them off at a NUL. ValueError, with the reason, refuses the certificate as a whole: one name
    with a character that no name has makes the others doubtful.
    """
    certificate = x509.load_pem_x509_certificate(pem)
    if weakness := key_weakness(certificate):
        raise ValueError(weakness)
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ClientNames(frozenset(), certificate.not_valid_after_utc)
    except ValueError:  # its own text may quote the name
        raise ValueError("subject alternative names that cannot be read") from None
    names = {
        (kind, name.value.lower() if kind is SanKind.DNS else name.value)  # RFC 4343
        for general, kind in _SAN_KINDS
        for name in extension.value
        if isinstance(name, general)
    }
    if not all(_NAME.fullmatch(name) for _, name in names):
        raise ValueError("a subject alternative name with a character that no name has")
    return ClientNames(frozenset(names), certificate.not_valid_after_utc)


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
