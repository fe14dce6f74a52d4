"""A certificate authority of the tests' own, and the files that its certificates are given in."""

from __future__ import annotations

import ipaddress
import socket
import ssl
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

import grpc
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

LIFE: Final = timedelta(days=2)
AGO: Final = timedelta(days=3)

LOOPBACK: Final = (
    x509.DNSName("localhost"),
    x509.IPAddress(ipaddress.IPv4Address("127.0.0.1")),
)


Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | dsa.DSAPrivateKey | ed25519.Ed25519PrivateKey


def _key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


class Pair(NamedTuple):
    """A certificate and its key, in PEM."""

    cert: bytes
    key: bytes

    def write(self, folder: Path, name: str) -> tuple[Path, Path]:
        """Put both into files, the key readable by its owner only, each replaced at once."""
        paths = folder / f"{name}.pem", folder / f"{name}.key"
        for path, content in zip(paths, self, strict=True):
            draft = path.with_suffix(".draft")
            draft.touch(mode=0o600)
            draft.write_bytes(content)
            draft.replace(path)
        return paths


@dataclass(frozen=True)
class Issuer:
    """Issues certificates."""

    name: str = "tests' own"
    key: ec.EllipticCurvePrivateKey = field(default_factory=_key)

    @property
    def pem(self) -> bytes:
        """The certificate of the authority itself."""
        return self._issue(_name(self.name), self.key, (), timedelta(0), authority=True)

    def issue(
        self,
        *names: x509.GeneralName,
        common_name: str = "leaf",
        age: timedelta = timedelta(0),
        key: Key | None = None,
    ) -> Pair:
        """Return a certificate with these SANs; with an `age` above LIFE it has expired."""
        key = key or _key()
        cert = self._issue(_name(common_name), key, names, age)
        return Pair(cert, _pem(key))

    def _issue(
        self,
        subject: x509.Name,
        key: Key,
        names: Sequence[x509.GeneralName],
        age: timedelta,
        *,
        authority: bool = False,
    ) -> bytes:
        start = datetime.now(UTC) - timedelta(minutes=5) - age
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(_name(self.name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + LIFE)
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, SHA256()).public_bytes(Encoding.PEM)


class ServerTls(NamedTuple):
    """The files of a server, as flags, and the authority that its clients trust."""

    ca: bytes
    flags: tuple[str, ...]

    def channel(self, address: str) -> grpc.Channel:
        """Return a channel to the server."""
        return grpc.secure_channel(address, grpc.ssl_channel_credentials(self.ca))

    def connect(self, address: str, seconds: float = 20) -> ssl.SSLSocket:
        """Make a handshake for HTTP/2 with the server."""
        context = ssl.create_default_context(cadata=self.ca.decode())
        context.set_alpn_protocols(["h2"])
        host, _, port = address.rpartition(":")
        raw = socket.create_connection((host, int(port)), seconds)
        return context.wrap_socket(raw, server_hostname="localhost")


def server_tls(folder: Path) -> ServerTls:
    """Write the files of a server on this machine."""
    issuer = Issuer()
    cert, key = issuer.issue(*LOOPBACK).write(folder, "server")
    return ServerTls(issuer.pem, ("--tls-cert", str(cert), "--tls-key", str(key)))


def self_signed(*names: x509.GeneralName) -> Pair:
    """Return a self-signed certificate."""
    issuer = Issuer("nobody")
    return Pair(issuer._issue(_name("nobody"), issuer.key, names, timedelta(0)), _pem(issuer.key))


def _pem(key: Key) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
