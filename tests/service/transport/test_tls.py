"""TLS client certificates: admission and identity of the caller."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Final

import pytest
from cryptography import x509

import keyauthority
from keyauthority import Client, KeyAuthorityError, Tls
from tests.service.certificates import AGO, Pair, self_signed
from tests.service.tls_world import CALL_SECONDS, GATEWAY, PROVISIONER, VERIFIER, World
from tests.service.tls_world import world as world  # the fixture

pytestmark = pytest.mark.xdist_group("tls")  # one for all

MINUTE: Final = timedelta(minutes=1)


@pytest.mark.parametrize(
    "pair",
    [
        lambda world: None,
        lambda world: self_signed(x509.UniformResourceIdentifier(GATEWAY)),
        lambda world: world.other.issue(x509.UniformResourceIdentifier(GATEWAY)),
        lambda world: world.ours.issue(x509.UniformResourceIdentifier(GATEWAY), age=AGO),
    ],
    ids=["none", "self-signed", "other-authority", "expired"],
)
def test_untrusted_client_certificate_fails_the_handshake(
    world: World, pair: Callable[[World], Pair | None]
) -> None:
    """No call is made, with any credential."""
    client = world.client(pair(world), world.server.operator_key)
    with pytest.raises(keyauthority.Unavailable) as failed:
        list(client.list_projects())
    assert failed.value.reason is None


@pytest.mark.parametrize(
    "name",
    [
        x509.UniformResourceIdentifier("spiffe://example.org/gateway/else"),
        x509.DNSName("else.example.org"),
        x509.DNSName("*.example.org"),
        x509.RFC822Name("gateway@example.org"),
        x509.UniformResourceIdentifier("dns:" + VERIFIER),
        x509.DNSName(PROVISIONER),  # a name of another kind
    ],
    ids=lambda name: name.value,
)
def test_unmapped_client_certificate_is_no_credential(world: World, name: x509.GeneralName) -> None:
    """A trusted certificate without a mapped SAN still needs an operator key."""
    with pytest.raises(keyauthority.Unauthenticated) as failed:
        list(world.named(name).list_projects())
    assert keyauthority.ErrorReason.CREDENTIAL_MISSING is failed.value.reason
    assert list(world.named(name, operator_key=world.server.operator_key).list_projects())


def test_common_name_is_not_an_identity(world: World) -> None:
    """Callers are identified by SAN, never by subject (RFC 6125, section 6.4.4)."""
    nobody = world.client(world.ours.issue(common_name=VERIFIER))
    with pytest.raises(keyauthority.Unauthenticated):
        nobody.verify("x")


def test_mapped_certificate_authenticates_and_is_the_actor(world: World) -> None:
    """Records created by the call carry the certificate's name."""
    gateway = world.gateway()
    project = gateway.create_project("by certificate")
    made = gateway.create_key(project.project_id, mode="test", kind="secret")
    assert (GATEWAY, "127.0.0.1") == (made.key.created_by, made.key.created_from)
    successor = gateway.rotate_key(made.key.access_key)
    assert GATEWAY == successor.key.created_by
    operator = world.named(x509.DNSName("else"), operator_key=world.server.operator_key)
    events = operator.list_events(actor=GATEWAY, access_key=made.key.access_key)
    assert {GATEWAY} == {event.actor for event in events}
    identity = gateway.get_caller()
    assert ("", GATEWAY) == (identity.access_key, identity.certificate_name)
    assert identity.permissions
    assert identity.expire_time is not None
    verifier = world.named(x509.DNSName(VERIFIER.upper()))
    assert verifier.verify(successor.secret_key).valid


def test_mapped_certificate_with_an_operator_key_is_ambiguous(world: World) -> None:
    """Two credentials are rejected: the intended identity is unclear."""
    both = world.named(
        x509.UniformResourceIdentifier(GATEWAY), operator_key=world.server.operator_key
    )
    with pytest.raises(keyauthority.Unauthenticated) as failed:
        list(both.list_projects())
    assert keyauthority.ErrorReason.CREDENTIAL_AMBIGUOUS is failed.value.reason


def test_certificate_with_two_mapped_names_is_ambiguous(world: World) -> None:
    """Each mapped name is a credential of its own."""
    both = world.named(x509.UniformResourceIdentifier(GATEWAY), x509.DNSName(VERIFIER))
    with pytest.raises(keyauthority.Unauthenticated) as failed:
        both.verify("x")
    assert keyauthority.ErrorReason.CREDENTIAL_AMBIGUOUS is failed.value.reason


@pytest.mark.parametrize(
    "name",
    [
        x509.DNSName(f"{VERIFIER}\0.attacker.net"),
        x509.UniformResourceIdentifier(f"{GATEWAY}\0.attacker.net"),
    ],
)
def test_san_with_an_embedded_nul_does_not_match(world: World, name: x509.GeneralName) -> None:
    """An authority for attacker.net must not be able to issue one of our callers."""
    with pytest.raises(keyauthority.Unauthenticated) as failed:
        world.named(name).verify("x")
    assert keyauthority.ErrorReason.CREDENTIAL_MISSING is failed.value.reason


def test_certificate_with_a_repeated_name_is_one_caller(world: World) -> None:
    """A caller is one credential, however often the name appears."""
    twice = world.named(x509.DNSName(VERIFIER), x509.DNSName(VERIFIER.upper()))
    assert keyauthority.VerdictCode.MALFORMED is twice.verify("x").code


def test_certificate_caller_has_the_configured_permissions_only(world: World) -> None:
    """Its permissions are exactly those of the configuration."""
    verifier = world.named(x509.DNSName(VERIFIER))
    assert keyauthority.VerdictCode.MALFORMED is verifier.verify("x").code
    with pytest.raises(keyauthority.PermissionDenied) as failed:
        verifier.create_project("mine")
    assert {"permission": "projects:create"} == failed.value.metadata


def test_confined_certificate_caller_sees_its_projects_only(world: World) -> None:
    """Other projects do not exist for it, and it creates none."""
    made = world.gateway().create_key(
        next(iter(world.gateway().list_projects())).project_id, mode="test", kind="secret"
    )
    confined = world.named(x509.RFC822Name(PROVISIONER))
    with pytest.raises(keyauthority.NotFound):
        confined.get_key(made.key.access_key)
    assert [] == list(confined.list_projects())
    assert keyauthority.VerdictCode.UNKNOWN is confined.verify(made.secret_key).code
    with pytest.raises(keyauthority.PermissionDenied):
        confined.create_project("mine")


@pytest.mark.parametrize(
    ("permissions", "expires"),
    [(["*:*"], True), (["usage:read"], True), (["keys:read"], False)],
    ids=["everything", "another right", "no end"],
)
def test_certificate_caller_creates_no_operator_key_beyond_itself(
    world: World, permissions: list[str], expires: bool
) -> None:
    """Neither more permissions nor a key that outlives its certificate."""
    with pytest.raises(keyauthority.PermissionDenied) as failed:
        world.gateway().create_key(
            kind="operator", permissions=permissions, ttl=MINUTE if expires else None
        )
    assert keyauthority.ErrorReason.BEYOND_OWN_RIGHTS is failed.value.reason
    made = world.gateway().create_key(kind="operator", permissions=["keys:read"], ttl=MINUTE)
    assert GATEWAY == made.key.created_by


def test_request_id_is_scoped_to_the_certificate_name(world: World) -> None:
    """A renewed certificate gets the same answer, another name another key."""
    request_id = str(uuid.uuid4())
    project_id = world.gateway().create_project("replayed").project_id

    def made(client: Client) -> str:
        key = client.create_key(project_id, mode="test", kind="secret", request_id=request_id)
        return key.secret_key.reveal()

    first = made(world.gateway())
    assert first == made(world.gateway())
    operator = world.named(x509.DNSName("else"), operator_key=world.server.operator_key)
    assert first != made(operator)


def test_client_rejects_an_untrusted_server(world: World) -> None:
    """The client decides which authority and which server name it trusts."""
    pair = world.ours.issue(x509.UniformResourceIdentifier(GATEWAY))
    for ca in (world.other.pem, None):
        tls = Tls(ca=ca, cert=pair.cert, key=pair.key)
        with (
            Client(world.server.address, tls=tls, timeout=CALL_SECONDS) as client,
            pytest.raises(keyauthority.Unavailable),
        ):
            client.verify("x")


def test_plaintext_client_at_a_tls_port_is_rejected(world: World) -> None:
    """A TLS port serves no plaintext."""
    with (
        Client(world.server.address, timeout=CALL_SECONDS) as client,
        pytest.raises(KeyAuthorityError) as failed,
    ):
        client.get_project_id(None, "x")
    assert isinstance(failed.value, keyauthority.Unavailable | keyauthority.DeadlineExceeded)
