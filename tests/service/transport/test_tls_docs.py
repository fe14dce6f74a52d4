"""docs/deployment.md: its configuration is valid and its client examples work."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from cryptography import x509

from keyauthority_server import config
from tests.contract.documents import ROOT, Reader, blocks, install_commands
from tests.service.certificates import LOOPBACK, Issuer
from tests.service.forkserver import shared

PAGE = ROOT / "docs" / "deployment.md"


def settings_of(tmp_path: Path) -> config.Config:
    """The configuration that the page's blocks make together."""
    text = "\n".join(block.text for block in blocks(PAGE) if block.language == "toml")
    file = tmp_path / "server.toml"
    file.write_text(text, encoding="utf-8")
    return config.load({"config": str(file)}, {})


def test_documented_configuration_is_valid(tmp_path: Path) -> None:
    """The server.toml of the page works unmodified."""
    settings = settings_of(tmp_path)
    assert settings.tls
    assert ["spiffe://example.org/gateway", "provisioner.example.org"] == [
        caller.san for caller in settings.callers
    ]


def test_documented_clients_reach_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library and command line examples work as described."""
    ours, folder = Issuer(), tmp_path / "clients"
    folder.mkdir()
    (folder / "ca.pem").write_bytes(ours.pem)
    cert, key = ours.issue(*LOOPBACK).write(tmp_path, "server")
    gateway = x509.UniformResourceIdentifier("spiffe://example.org/gateway")
    ours.issue(gateway).write(folder, "gateway")
    install_commands(tmp_path)
    monkeypatch.chdir(tmp_path)
    callers = '[{"san": "spiffe://example.org/gateway", "permissions": ["*:*"]}]'
    tls = ("--tls-cert", str(cert), "--tls-key", str(key), "--tls-client-ca", "clients/ca.pem")
    server = shared().start(tmp_path / "data", *tls, settings={"KEYAUTHORITY_CALLERS": callers})
    try:
        reader = Reader(PAGE, server.address)
        for block in blocks(PAGE):
            if block.language in ("python", "sh"):
                reader.run(
                    block._replace(text=block.text.replace("localhost:50051", server.address))
                )
    finally:
        server.stop()


def test_documented_systemd_unit_matches_the_server() -> None:
    """Its command line is valid, and its data folder is that of the page."""
    (unit,) = (block.text for block in blocks(PAGE) if block.language == "ini")
    assert "keyauthority-server serve --must-exist --config /etc/keyauthority/server.toml" in unit
    first = next(block.text for block in blocks(PAGE) if block.language == "toml")
    assert "/var/lib/keyauthority" == tomllib.loads(first)["data"]
