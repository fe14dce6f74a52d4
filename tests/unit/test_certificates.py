"""TLS files: valid ones, and the one-line error for each invalid one."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from structlog.testing import capture_logs

from keyauthority.clock import SystemClock
from keyauthority_server.certificates import TlsMaterial, load, signature
from keyauthority_server.config import ConfigError, TlsFiles
from keyauthority_server.transport.tls import FollowedFiles
from tests.service.certificates import AGO, LOOPBACK, Issuer, Key

ISSUER = Issuer()


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    """Files that are fit to be served."""
    cert, key = ISSUER.issue(*LOOPBACK).write(tmp_path, "server")
    client_ca = tmp_path / "ca.pem"
    client_ca.write_bytes(ISSUER.pem)
    return TlsFiles(cert, key, client_ca)


def expire(files: TlsFiles) -> None:
    """Put a certificate there that has expired."""
    ISSUER.issue(*LOOPBACK, age=AGO).write(files.cert.parent, "server")


def postpone(files: TlsFiles) -> None:
    """Put a certificate there that is not valid yet."""
    ISSUER.issue(*LOOPBACK, age=-AGO).write(files.cert.parent, "server")


def no_authority(files: TlsFiles) -> None:
    """Take the authorities away."""
    assert files.client_ca
    files.client_ca.unlink()


def empty_authority(files: TlsFiles) -> None:
    """Leave a file without a certificate."""
    assert files.client_ca
    files.client_ca.write_bytes(b"")


def test_valid_files_are_read_completely(files: TlsFiles) -> None:
    """Handshakes use the files' content, and no key is printed."""
    material = load(files, datetime.now(UTC))
    assert (files.cert.read_bytes(), files.key.read_bytes()) == material[:2]
    assert ISSUER.pem[:20] == (material.client_ca or b"")[:20]
    assert "PRIVATE" not in repr(material)


def test_key_readable_by_its_group_is_served(files: TlsFiles) -> None:
    """Kubernetes hands keys over by group."""
    files.key.chmod(0o440)
    assert load(files, datetime.now(UTC))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda files: files.cert.unlink(), "cannot read {cert}: No such file"),
        (lambda files: files.key.unlink(), "cannot read {key}: No such file"),
        (lambda files: files.key.chmod(0o604), "{key} is open to others"),
        (lambda files: files.key.chmod(0o620), "{key} is open to others"),
        (lambda files: files.key.write_bytes(b"x"), "{key} contains no private key in PEM"),
        (lambda files: files.cert.write_bytes(b"x"), "{cert} contains no certificate in PEM"),
        (
            lambda files: files.key.write_bytes(ISSUER.issue().key),
            "the key in {key} does not match the certificate in {cert}",
        ),
        (expire, "the certificate in {cert} expired 20"),
        (postpone, "the certificate in {cert} is not valid yet"),
        (no_authority, "cannot read {ca}: No such file"),
        (empty_authority, "{ca} contains no certificate in PEM"),
    ],
)
def test_invalid_files_are_one_error_line(
    files: TlsFiles, harm: Callable[[TlsFiles], None], reason: str
) -> None:
    """The line names the file and its fault."""
    harm(files)
    with pytest.raises(ConfigError) as refused:
        load(files, datetime.now(UTC))
    expected = reason.format(cert=files.cert, key=files.key, ca=files.client_ca)
    assert expected == str(refused.value)[: len(expected)]
    assert "\n" not in str(refused.value)


KEYS: Final[dict[str, Callable[[], Key]]] = {
    "RSA 2048": lambda: rsa.generate_private_key(65537, 2048),
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "an RSA key of 1024 bits": lambda: rsa.generate_private_key(65537, 1024),  # noqa: S505
    "a key on the curve secp521r1": lambda: ec.generate_private_key(ec.SECP521R1()),
    "a key on the curve secp256k1": lambda: ec.generate_private_key(ec.SECP256K1()),
    "a key of the kind Ed25519": ed25519.Ed25519PrivateKey.generate,
    "a key of the kind DSA": lambda: dsa.generate_private_key(2048),
}
REFUSED = [kind for kind in KEYS if kind.startswith("a")]


@pytest.mark.parametrize("kind", KEYS)
def test_key_types_are_accepted_by_an_allowlist(files: TlsFiles, kind: str) -> None:
    """RSA from 2048 bits, P-256 and P-384; others exclude clients or are weak."""
    ISSUER.issue(*LOOPBACK, key=KEYS[kind]()).write(files.cert.parent, "server")
    if kind not in REFUSED:
        assert load(files, datetime.now(UTC))
        return
    with pytest.raises(ConfigError) as refused:
        load(files, datetime.now(UTC))
    line = (
        f"a certificate in {files.cert} has {kind}: use RSA with 2048 to 8192 bits, P-256 or P-384"
    )
    assert line == str(refused.value)


def test_certificate_with_a_refused_key_is_not_reloaded(files: TlsFiles) -> None:
    """The old one stays and one line says why; a valid one is loaded later."""
    taken: list[TlsMaterial] = []
    followed = FollowedFiles(files, SystemClock(), taken.append)
    with capture_logs() as lines:
        for kind in ("a key of the kind Ed25519", "P-384"):
            ISSUER.issue(*LOOPBACK, key=KEYS[kind]()).write(files.cert.parent, "server")
            followed.look()
            followed.look()
    assert ["certificate_not_taken_over", "certificate_taken_over"] == [
        line["event"] for line in lines
    ]
    assert "a key of the kind Ed25519" in lines[0]["reason"]


def test_signature_changes_with_a_replaced_file(files: TlsFiles) -> None:
    """A new file of the same name has another signature, and so has a removed one."""
    seen = {signature(files)}
    ISSUER.issue(*LOOPBACK).write(files.cert.parent, "server")
    seen.add(signature(files))
    no_authority(files)
    seen.add(signature(files))
    assert 3 == len(seen)
