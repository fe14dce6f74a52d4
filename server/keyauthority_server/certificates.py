"""TLS files: read and validated before use; errors are one line."""

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

_FILE_MAX: Final = 1024 * 1024  # bytes; the CA bundle of a browser takes a quarter

_RSA_BITS_MIN: Final = 2048  # NIST SP 800-57 part 1: 112 bits of security
_RSA_BITS_MAX: Final = 8192  # the maximum of BoringSSL, which gRPC uses
_CURVES: Final = frozenset({"secp256r1", "secp384r1"})  # P-256 and P-384
_SAN_KINDS: Final = (
    (x509.DNSName, SanKind.DNS),
    (x509.UniformResourceIdentifier, SanKind.URI),
    (x509.RFC822Name, SanKind.EMAIL),
)
_NAME: Final = re.compile(r"[!-~]+", re.ASCII)

Signature = tuple[tuple[int, ...], ...]


class TlsMaterial(NamedTuple):
    """Certificate chain, key and client CAs for handshakes, in PEM."""

    chain: bytes
    key: bytes
    client_ca: bytes | None
    end: datetime
    """When the certificate expires."""

    def __repr__(self) -> str:
        return f"TlsMaterial(end={self.end.isoformat()})"


def load(files: TlsFiles, now: datetime) -> TlsMaterial:
    """Read and validate the files at the time `now`.

    Raises ConfigError, or TransientError for a system error that may pass.
    """
    chain = _read(files.cert)
    key = _read(files.key, secret=True)
    client_ca = _read(files.client_ca) if files.client_ca else None
    certificates = _certificates(files.cert, chain)
    for entry in certificates:
        if weakness := key_weakness(entry):
            raise ConfigError(f"a certificate in {files.cert} has {weakness}")
    certificate = certificates[0]
    if certificate.not_valid_after_utc <= now:
        raise ConfigError(f"the certificate in {files.cert} expired {_day(certificate)}")
    if certificate.not_valid_before_utc > now:
        raise ConfigError(f"the certificate in {files.cert} is not valid yet")
    try:
        private = load_pem_private_key(key, password=None)
    except TypeError:
        raise ConfigError(f"the key in {files.key} is encrypted: store it decrypted") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigError(f"{files.key} contains no private key in PEM") from None
    if private.public_key() != certificate.public_key():
        raise ConfigError(f"the key in {files.key} does not match the certificate in {files.cert}")
    if files.client_ca and client_ca is not None:
        _certificates(files.client_ca, client_ca)
    return TlsMaterial(chain, key, client_ca, certificate.not_valid_after_utc)


def key_weakness(certificate: x509.Certificate) -> str:
    """Return the reason why a certificate's key is not accepted; empty if it is.

    Only named kinds that every TLS library supports are accepted. gRPC rejects others in the
    handshake, so that a certificate with such a key would disconnect its clients.
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
    return f"{kind}: use RSA with {_RSA_BITS_MIN} to {_RSA_BITS_MAX} bits, P-256 or P-384"


class ClientNames(NamedTuple):
    """Subject alternative names and expiry of a client certificate."""

    names: frozenset[tuple[SanKind, str]]
    end: datetime


def client_names(pem: bytes) -> ClientNames:
    """Return the subject alternative names of a verified client certificate.

    The names are parsed from the certificate: libraries that pass them as C strings truncate them
    at a NUL. One name with an invalid character invalidates the whole certificate. Raises
    ValueError with the reason.
    """
    certificate = x509.load_pem_x509_certificate(pem)
    if weakness := key_weakness(certificate):
        raise ValueError(weakness)
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ClientNames(frozenset(), certificate.not_valid_after_utc)
    except ValueError:  # its message may quote the name
        raise ValueError("malformed subject alternative names") from None
    names = {
        (kind, name.value.lower() if kind is SanKind.DNS else name.value)  # RFC 4343
        for general, kind in _SAN_KINDS
        for name in extension.value
        if isinstance(name, general)
    }
    if not all(_NAME.fullmatch(name) for _, name in names):
        raise ValueError("a subject alternative name with an invalid character")
    return ClientNames(frozenset(names), certificate.not_valid_after_utc)


def signature(files: TlsFiles) -> Signature:
    """Return a value that changes when a file is written or replaced."""
    return tuple(map(_signature, files.paths()))


def _signature(path: Path) -> tuple[int, ...]:
    try:
        status = path.stat()
    except OSError:
        return ()
    return (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode)


def _read(path: Path, *, secret: bool = False) -> bytes:
    try:
        if secret:  # Kubernetes uses links, Debian the group ssl-cert
            opened = open_private(path, follow=True, group=GROUP_READS, any_group=True)
        else:
            opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(opened, "rb") as file:
            if not stat.S_ISREG(os.fstat(opened).st_mode):
                raise ConfigError(f"{path} is not a regular file")
            content = file.read(_FILE_MAX + 1)
    except OSError as error:
        raise refusal(error, f"cannot read {path}") from error
    if len(content) > _FILE_MAX:
        raise ConfigError(f"{path} is too large for certificates: at most {_FILE_MAX} bytes")
    return content


def _certificates(path: Path, pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        raise ConfigError(f"{path} contains no certificate in PEM") from None


def _day(certificate: x509.Certificate) -> str:
    return certificate.not_valid_after_utc.date().isoformat()
