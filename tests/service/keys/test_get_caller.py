"""GetCaller: the identity and rights of the caller."""

from __future__ import annotations

from google.protobuf.duration_pb2 import Duration

from keyauthority.v1 import key_authority_service_pb2, key_pb2
from tests.service.callers import Caller, bearer, new_key, new_operator, revoke

REQUEST = key_authority_service_pb2.GetCallerRequest()


def test_get_caller_returns_the_rights_of_the_operator_key(root: Caller, project: str) -> None:
    """Any right suffices; the answer has the settings of the key."""
    restrictions = key_pb2.Restrictions(allowed_ips=["127.0.0.0/8", "::1"])
    caller = new_operator(
        root,
        "usage:read",
        "keys:*",
        projects=[project],
        restrictions=restrictions,
        ttl=Duration(seconds=60),
    )
    key = caller.key
    expected = key_authority_service_pb2.GetCallerResponse(
        access_key=key.access_key,
        permissions=key.permissions,
        operator_projects=[project],
        allowed_ips=key.restrictions.allowed_ips,
        expire_time=key.expire_time,
    )
    assert expected == caller.ask(REQUEST)
    assert ["*:*"] == list(root.ask(REQUEST).permissions)


def test_get_caller_with_an_invalid_credential_is_unauthenticated(
    root: Caller, nobody: Caller, project: str
) -> None:
    """Without credential, with a key of a project, and after the revocation."""
    revoked = new_operator(root, "*:*")
    assert revoked.ask(REQUEST).access_key == revoked.key.access_key
    revoke(root, access_key=revoked.key.access_key)
    assert "CREDENTIAL_MISSING" == nobody.refused(REQUEST).reason
    secret = bearer(new_key(root, project).secret_key)
    for caller in (revoked, nobody.bearing(secret)):
        assert "CREDENTIAL_INVALID" == caller.refused(REQUEST).reason


def test_get_caller_from_another_address_is_denied(root: Caller) -> None:
    """allowed_ips apply to this call as to every other."""
    elsewhere = key_pb2.Restrictions(allowed_ips=["192.0.2.1"])
    caller = new_operator(root, "keys:read", restrictions=elsewhere)
    assert "ADDRESS_NOT_ALLOWED" == caller.refused(REQUEST).reason
