"""TLS as clients meet it: who is let in, and as whom."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from typing import Final

import pytest
from cryptography import x509

import keyauthority
from keyauthority import Client, KeyAuthorityError, Tls
from tests.service.certificates import AGO, Pair, self_signed
from tests.service.tls_world import CALL_SECONDS, GATEWAY, PROVISIONER, VERIFIER, World

pytestmark = pytest.mark.xdist_group("tls")  # one for all

MINUTE: Final = timedelta(minutes=1)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """One server for this module."""
    with ExitStack() as stack:
        made = World(tmp_path_factory.mktemp("tls"), stack)
        made.serve()
        yield made


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
def test_certificate_that_is_not_vouched_for_lets_nobody_in(
    world: World, pair: Callable[[World], Pair | None]
) -> None:
    """The handshake fails: no call is made, whatever credential would have come with it."""
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
def test_certificate_that_is_not_mapped_is_no_credential(
    world: World, name: x509.GeneralName
) -> None:
    """Right authority, wrong SAN: he is let in, and is nobody without an operator key."""
    with pytest.raises(keyauthority.Unauthenticated) as failed:
        list(world.named(name).list_projects())
    assert keyauthority.ErrorReason.CREDENTIAL_MISSING is failed.value.reason
    assert list(world.named(name, operator_key=world.server.operator_key).list_projects())


def test_common_name_is_nobody_s_name(world: World) -> None:
    """A caller is known by a SAN; the subject says nothing (RFC 6125, section 6.4.4)."""
    nobody = world.client(world.ours.issue(common_name=VERIFIER))
    with pytest.raises(keyauthority.Unauthenticated):
        nobody.verify("x")


def test_mapped_certificate_needs_no_operator_key_and_is_the_actor(world: World) -> None:
    """What a caller makes carries the name of his certificate."""
    gateway = world.gateway()
    project = gateway.create_project("by certificate")
    made = gateway.create_key(project.project_id, mode="test", kind="secret")
    assert (GATEWAY, "127.0.0.1") == (made.key.created_by, made.key.created_from)
    successor = gateway.rotate_key(made.key.access_key)
    assert GATEWAY == successor.key.created_by
    operator = world.named(x509.DNSName("else"), operator_key=world.server.operator_key)
    events = operator.list_events(actor=GATEWAY, access_key=made.key.access_key)
    assert {GATEWAY} == {event.actor for event in events}
    verifier = world.named(x509.DNSName(VERIFIER.upper()))
    assert verifier.verify(successor.secret_key).valid


def test_mapped_certificate_with_an_operator_key_is_ambiguous(world: World) -> None:
    """Two credentials are none: nobody can tell as whom the call was meant."""
    both = world.named(
        x509.UniformResourceIdentifier(GATEWAY), operator_key=world.server.operator_key
    )
    with pytest.raises(keyauthority.Unauthenticated) as failed:
        list(both.list_projects())
    assert keyauthority.ErrorReason.CREDENTIAL_AMBIGUOUS is failed.value.reason


def test_certificate_that_stands_for_two_callers_is_ambiguous(world: World) -> None:
    """A certificate with two mapped names is two credentials."""
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
def test_name_that_goes_on_behind_a_nul_is_another(world: World, name: x509.GeneralName) -> None:
    """The authority may issue names under attacker.net: none of them is a caller of ours."""
    with pytest.raises(keyauthority.Unauthenticated) as failed:
        world.named(name).verify("x")
    assert keyauthority.ErrorReason.CREDENTIAL_MISSING is failed.value.reason


def test_caller_that_a_certificate_names_twice_is_one(world: World) -> None:
    """One caller is one credential, however often its name is there."""
    twice = world.named(x509.DNSName(VERIFIER), x509.DNSName(VERIFIER.upper()))
    assert keyauthority.VerdictCode.MALFORMED is twice.verify("x").code


def test_caller_by_certificate_may_what_is_listed_and_no_more(world: World) -> None:
    """His permissions are those of the configuration."""
    verifier = world.named(x509.DNSName(VERIFIER))
    assert keyauthority.VerdictCode.MALFORMED is verifier.verify("x").code
    with pytest.raises(keyauthority.PermissionDenied) as failed:
        verifier.create_project("mine")
    assert {"permission": "projects:create"} == failed.value.metadata


def test_confined_caller_by_certificate_does_not_know_what_is_not_his(world: World) -> None:
    """What belongs to other projects does not exist for him, and makes no project."""
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
def test_caller_by_certificate_makes_no_operator_key_beyond_his_own(
    world: World, permissions: list[str], expires: bool
) -> None:
    """Neither beyond his permissions, nor one that outlives his certificate."""
    with pytest.raises(keyauthority.PermissionDenied) as failed:
        world.gateway().create_key(
            kind="operator", permissions=permissions, ttl=MINUTE if expires else None
        )
    assert keyauthority.ErrorReason.BEYOND_OWN_RIGHTS is failed.value.reason
    made = world.gateway().create_key(kind="operator", permissions=["keys:read"], ttl=MINUTE)
    assert GATEWAY == made.key.created_by


def test_request_id_belongs_to_the_certificate_s_name(world: World) -> None:
    """The same name with another certificate gets the same answer; another name another key."""
    request_id = str(uuid.uuid4())
    project_id = world.gateway().create_project("replayed").project_id

    def made(client: Client) -> str:
        key = client.create_key(project_id, mode="test", kind="secret", request_id=request_id)
        return key.secret_key.reveal()

    first = made(world.gateway())
    assert first == made(world.gateway())
    operator = world.named(x509.DNSName("else"), operator_key=world.server.operator_key)
    assert first != made(operator)


def test_client_that_does_not_trust_the_server_makes_no_call(world: World) -> None:
    """Who vouches for the server is the client's to say, and so is its name."""
    pair = world.ours.issue(x509.UniformResourceIdentifier(GATEWAY))
    for ca in (world.other.pem, None):
        tls = Tls(ca=ca, cert=pair.cert, key=pair.key)
        with (
            Client(world.server.address, tls=tls, timeout=CALL_SECONDS) as client,
            pytest.raises(keyauthority.Unavailable),
        ):
            client.verify("x")


def test_plaintext_client_at_a_tls_port_makes_no_call(world: World) -> None:
    """Nothing is served in plaintext beside TLS."""
    with (
        Client(world.server.address, timeout=CALL_SECONDS) as client,
        pytest.raises(KeyAuthorityError) as failed,
    ):
        client.get_project_id(None, "x")
    assert isinstance(failed.value, keyauthority.Unavailable | keyauthority.DeadlineExceeded)
