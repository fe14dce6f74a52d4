"""`[[callers]]`: the mapping of certificates to operators, and its lookup."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from structlog.testing import capture_logs

from keyauthority import PermissionDenied, Unauthenticated
from keyauthority_server import config
from keyauthority_server.config import Callers, ConfigError, SanKind
from keyauthority_server.keyring import Keyring
from keyauthority_server.rpc.credentials import credential_of
from keyauthority_server.rpc_types import Call, Certificate
from keyauthority_server.services.carry_over import RESTORE
from keyauthority_server.services.first_records import SETUP
from keyauthority_server.services.keys import BEARER
from keyauthority_server.services.local_admin import MACHINE
from keyauthority_server.services.principal import authenticate
from keyauthority_server.transport import tls
from tests.service.certificates import Issuer

PROJECT = "6c9a4b0e-5d5f-4a53-9f0e-3f6f6c1d2e3a"
TLS = 'tls_cert = "c"\ntls_key = "k"\ntls_client_ca = "a"\n'


def told(tmp_path: Path, text: str, tls_settings: str = TLS) -> config.Config:
    """The configuration of a file with these callers."""
    file = tmp_path / "server.toml"
    file.write_text(tls_settings + text, encoding="utf-8")
    return config.load({"config": str(file)}, {})


def test_configured_callers_reach_the_workers(tmp_path: Path) -> None:
    """A worker gets the same mapping as the file."""
    settings = told(
        tmp_path,
        f'[[callers]]\nsan = "spiffe://a/b"\npermissions = ["keys:verify"]\n'
        f'[[callers]]\nsan = "A.Example"\npermissions = ["*:*"]\nprojects = ["{PROJECT}"]\n',
    )
    assert settings == config.parse(json.loads(json.dumps(settings.settings())))
    assert [(SanKind.URI, "spiffe://a/b"), (SanKind.DNS, "a.example")] == [
        (caller.kind, caller.san) for caller in settings.callers
    ]
    assert [(), (PROJECT,)] == [caller.projects for caller in settings.callers]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("callers = 1", "must be a list of tables"),
        ("callers = [1]", "entry 1: must be a table"),
        ("[[callers]]\npermissions = ['keys:read']", "entry 1: san must be"),
        ("[[callers]]\nsan = ''\npermissions = ['keys:read']", "entry 1: san must be"),
        (
            "[[callers]]\nsan = '*.example'\npermissions = ['keys:read']",
            "entry 1: san '*.example' is no",
        ),
        *(
            (
                f"[[callers]]\nsan = '{name}'\npermissions = ['keys:read']",
                f"entry 1: san '{name}' is no",
            )
            for name in (MACHINE, RESTORE.actor, BEARER, SETUP.actor)  # other actors in the log
        ),
        ("[[callers]]\nsan = 'a b'\npermissions = ['keys:read']", "entry 1: san 'a b' is no"),
        ("[[callers]]\nsan = 'a'", "entry 1: permissions must list at least one"),
        (
            "[[callers]]\nsan = 'a'\npermissions = ['verify']",
            "entry 1: 'verify' is not a permission",
        ),
        (
            "[[callers]]\nsan = 'a'\npermissions = ['keys:read', 'keys:verfy']",
            "entry 1: 'keys:verfy' is not a right of operators; the rights are audit:read, ",
        ),
        (
            "[[callers]]\nsan = 'a'\npermissions = 'keys:read'",
            "entry 1: permissions must be a list",
        ),
        (
            "[[callers]]\nsan = 'a'\npermissions = ['keys:read', 'keys:read']",
            "entry 1: permissions must list",
        ),
        (
            "[[callers]]\nsan = 'a'\npermissions = ['keys:read']\nprojects = ['x']",
            "entry 1: 'x' is not a project_id",
        ),
        (
            "[[callers]]\nsan = 'a'\npermissions = ['keys:read']\nprojects = []",
            "entry 1: projects must list at least one",
        ),
        (
            "[[callers]]\nsan = 'a'\npermissions = ['keys:read']\nrole = 'x'",
            "entry 1: 'role' is not a field",
        ),
        (
            2 * "[[callers]]\nsan = 'A'\npermissions = ['keys:verify']\n",
            "entry 2: a has an entry already",
        ),
    ],
)
def test_invalid_callers_are_rejected_with_a_reason(tmp_path: Path, text: str, reason: str) -> None:
    """The message names the entry and its fault."""
    with pytest.raises(ConfigError) as refused:
        told(tmp_path, text)
    expected = f"callers in {tmp_path / 'server.toml'}: {reason}"
    assert expected == str(refused.value)[: len(expected)]


def test_callers_without_client_certificates_are_rejected(tmp_path: Path) -> None:
    """No call could ever match one of them."""
    with pytest.raises(ConfigError, match="set --tls-client-ca"):
        told(tmp_path, "[[callers]]\nsan = 'a'\npermissions = ['keys:read']", "")


CALLERS = tls.CallerResolver(
    Callers.parse(
        json.dumps(
            [
                {"san": san, "permissions": ["keys:read"]}
                for san in ("a.example", "spiffe://a/b", "x@a.example")
            ]
        )
    )
)
ISSUER = Issuer()


def found(*names: x509.GeneralName, **peer: list[bytes]) -> list[str]:
    """The callers that a certificate with these SANs stands for."""
    pem = ISSUER.issue(*names).cert
    end = x509.load_pem_x509_certificate(pem).not_valid_after_utc
    certificates = CALLERS.of_grpcio({"x509_pem_cert": [pem], **peer})
    assert all(one.expire_time == end for one in certificates)
    return [one.name for one in certificates]


def test_caller_is_matched_by_a_name_of_its_kind_only() -> None:
    """DNS names ignore case, all other kinds are exact."""
    dns, uri, email = x509.DNSName, x509.UniformResourceIdentifier, x509.RFC822Name
    assert ["a.example"] == found(dns("A.EXAMPLE"))
    assert ["spiffe://a/b"] == found(uri("spiffe://a/b"))
    assert ["a.example", "x@a.example"] == found(dns("a.example"), email("x@a.example"))
    assert [] == found(uri("spiffe://a/B"), email("a.example"), dns("spiffe://a/b"))
    assert [] == found(x509.DirectoryName(x509.Name([])))
    assert [] == found()
    assert () == CALLERS.of_grpcio({})


def test_repeated_name_is_one_caller() -> None:
    """A name given twice, or in two spellings, is one credential."""
    assert ["a.example"] == found(*map(x509.DNSName, ("a.example", "a.example", "A.example")))


def test_names_are_read_from_the_certificate() -> None:
    """The transport's list of names, which a library may cut at a NUL, is not used."""
    told = {"peer_dns": [b"a.example"], "peer_uri": [b"spiffe://a/b"]}
    assert [] == found(x509.DNSName("b.example"), **told)


@pytest.mark.parametrize("character", ["\0", "\n", "\x1b", " ", "\x7f"])
def test_certificate_with_an_invalid_character_matches_no_caller(character: str) -> None:
    """Neither by the part before it nor by another name; the log states it."""
    good = x509.UniformResourceIdentifier("spiffe://a/b")
    with capture_logs() as lines:
        for bad in (
            x509.DNSName(f"a.example{character}.attacker.net"),
            x509.UniformResourceIdentifier(f"spiffe://a/b{character}"),
            x509.RFC822Name(f"x@a.example{character}"),
        ):
            assert [] == found(bad)
            assert [] == found(good, bad)
    assert {"client_certificate_refused"} == {line["event"] for line in lines}


def test_certificate_with_a_weak_key_matches_no_caller() -> None:
    """Keys of 1024 bits can be broken."""
    key = rsa.generate_private_key(65537, 1024)  # noqa: S505 - to be refused
    pem = ISSUER.issue(x509.DNSName("a.example"), key=key).cert
    with capture_logs() as lines:
        assert () == CALLERS.of_grpcio({"x509_pem_cert": [pem]})
    assert "an RSA key of 1024 bits" in lines[0]["reason"]


def test_certificate_expiring_during_its_connection_is_no_credential() -> None:
    """Each call checks the certificate's end and the caller's permissions."""
    end = datetime(2030, 1, 1, tzinfo=UTC)
    certificate = Certificate("a.example", ("keys:verify",), (), end)
    credential = credential_of(Call((), "ipv4:203.0.113.7:5", (certificate,)))
    peppers, before = Keyring(Path("pepper"), {1: bytes(32)}), end - timedelta(seconds=1)
    caller = authenticate(None, credential, ("keys:verify",), before, peppers)
    assert ("a.example", "203.0.113.7") == (caller.actor, caller.peer)
    with pytest.raises(PermissionDenied):
        authenticate(None, credential, ("keys:read",), before, peppers)
    with pytest.raises(Unauthenticated):
        authenticate(None, credential, ("keys:verify",), end, peppers)
