"""The files that TLS is served with: what is fit, and the one line that refuses what is not."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keyauthority_server.certificates import load, signature
from keyauthority_server.config import ConfigError, TlsFiles
from tests.service.certificates import AGO, LOOPBACK, Issuer

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


def test_files_that_are_fit_are_read_whole(files: TlsFiles) -> None:
    """What handshakes are made with is what the files hold, and no key is printed."""
    material = load(files, datetime.now(UTC))
    assert (files.cert.read_bytes(), files.key.read_bytes()) == material[:2]
    assert ISSUER.pem[:20] == (material.client_ca or b"")[:20]
    assert "PRIVATE" not in repr(material)


def test_group_may_read_the_key(files: TlsFiles) -> None:
    """A key that is handed over by its group, as Kubernetes does it, is served."""
    files.key.chmod(0o440)
    assert load(files, datetime.now(UTC))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda files: files.cert.unlink(), "cannot read {cert}: No such file"),
        (lambda files: files.key.unlink(), "cannot read {key}: No such file"),
        (lambda files: files.key.chmod(0o604), "{key} is open to others"),
        (lambda files: files.key.chmod(0o620), "{key} is open to others"),
        (lambda files: files.key.write_bytes(b"x"), "{key} holds no private key in PEM"),
        (lambda files: files.cert.write_bytes(b"x"), "{cert} holds no certificate in PEM"),
        (
            lambda files: files.key.write_bytes(ISSUER.issue().key),
            "the key in {key} is not that of the certificate in {cert}",
        ),
        (expire, "the certificate in {cert} expired 20"),
        (postpone, "the certificate in {cert} is not valid yet"),
        (no_authority, "cannot read {ca}: No such file"),
        (empty_authority, "{ca} holds no certificate in PEM"),
    ],
)
def test_files_that_are_not_fit_are_refused_in_one_line(
    files: TlsFiles, harm: Callable[[TlsFiles], None], reason: str
) -> None:
    """The line names the file, and what is wrong with it."""
    harm(files)
    with pytest.raises(ConfigError) as refused:
        load(files, datetime.now(UTC))
    expected = reason.format(cert=files.cert, key=files.key, ca=files.client_ca)
    assert expected == str(refused.value)[: len(expected)]
    assert "\n" not in str(refused.value)


def test_signature_tells_a_file_that_was_replaced(files: TlsFiles) -> None:
    """A new file of the same name has another signature, and so has one that is gone."""
    seen = {signature(files)}
    ISSUER.issue(*LOOPBACK).write(files.cert.parent, "server")
    seen.add(signature(files))
    no_authority(files)
    seen.add(signature(files))
    assert 3 == len(seen)
