"""Verify over the wire: each verdict, its precedence, and the fields it returns."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

import keyauthority
from keyauthority.v1 import key_authority_service_pb2, key_pb2
from tests.service.callers import (
    BASE62,
    MIB,
    Caller,
    absent_project,
    get_key,
    lasting,
    mended,
    new_key,
    new_operator,
    new_project,
    revoke,
    verdict,
    verify,
    with_other_secret,
)
from tests.service.processes import ServerProcess, wait_until

TOLD = ("access_key", "project_id", "permissions", "labels", "key", "project", "mode", "kind")
App = key_authority_service_pb2.App
ApiTarget = key_authority_service_pb2.ApiTarget
Restrictions = key_pb2.Restrictions
SHA1 = "0123456789abcdef" * 2 + "01234567"


def test_verify_of_a_valid_key_describes_it(root: Caller, project: str) -> None:
    """The answer holds the key's properties and the state's revision, but no record."""
    made = new_key(root, project, "RESTRICTED", labels={"team": "a"}, ttl=Duration(seconds=3600))
    answer = verify(root, made.secret_key, permissions=["orders:read"])
    assert (True, key_authority_service_pb2.VERDICT_VALID) == (answer.valid, answer.verdict)
    for field in ("access_key", "project_id", "mode", "kind", "permissions", "labels"):
        assert (field, getattr(made.key, field)) == (field, getattr(answer, field))
    assert made.key.expire_time == answer.expire_time
    assert answer.revision >= made.revision
    assert made.log_id == answer.log_id
    assert not answer.failed
    assert not answer.HasField("key")
    assert not answer.HasField("project")


@pytest.mark.parametrize(
    "token",
    ["", "x", "x" * MIB, "\u00e9" * 78, "\u00e9" * MIB, "\0", "sk_test_", "\U0001f511" * 35],
    ids=["empty", "x", "1 MiB", "letters", "2 MiB", "NUL", "prefix", "emoji"],
)
def test_verify_of_a_non_token_is_malformed(root: Caller, token: str) -> None:
    """No value of secret_key is INVALID_ARGUMENT."""
    answer = verify(root, token, explain=True)
    assert key_authority_service_pb2.VERDICT_MALFORMED == answer.verdict
    assert [key_authority_service_pb2.VERDICT_MALFORMED] == list(answer.failed)
    assert not any(getattr(answer, field) for field in TOLD if field not in ("key", "project"))


def test_verify_of_a_damaged_token_is_malformed(root: Caller, project: str) -> None:
    """The check digits detect each changed, dropped or doubled character."""
    token = new_key(root, project).secret_key
    for place in range(0, len(token), 7):
        other = BASE62[(BASE62.find(token[place]) + 1) % 62]
        for damaged in (
            token[:place] + other + token[place + 1 :],
            token[:place] + token[place + 1 :],
            token[:place] + token[place] + token[place:],
        ):
            assert "MALFORMED" == verdict(root, damaged)
    for damaged in (f" {token}", f"{token}\n", token.upper(), token.swapcase()):
        assert "MALFORMED" == verdict(root, damaged)


def test_verify_of_unknown_key_and_wrong_secret_returns_identical_bytes(
    root: Caller, project: str
) -> None:
    """Wrong kind, wrong mode and operator tokens return the same bytes."""
    token = new_key(root, project).secret_key
    restricted = new_key(root, project, "RESTRICTED").secret_key
    publishable = new_key(root, project, "PUBLISHABLE").secret_key
    operator = new_operator(root, "keys:read").metadata[0][1].removeprefix("Bearer ")
    answers = {
        verify(root, unknown, explain=True).SerializeToString()
        for unknown in (
            with_other_secret(token),
            mended(token[:8] + "KA000000000000000000" + token[28:]),
            mended("rk" + token[2:]),
            mended("sk" + restricted[2:]),
            mended(token.replace("_test_", "_live_")),
            mended(publishable.replace("_test_", "_live_")),
            operator,
            with_other_secret(operator),
        )
    }
    assert 1 == len(answers)
    answer = key_authority_service_pb2.VerifyResponse.FromString(answers.pop())
    assert key_authority_service_pb2.VERDICT_UNKNOWN == answer.verdict
    assert {"verdict", "revision", "log_id", "failed"} == {
        field.name for field, _ in answer.ListFields()
    }


def test_verify_of_a_foreign_key_by_a_confined_operator_is_unknown(
    root: Caller, project: str
) -> None:
    """The bytes are those of a key that does not exist."""
    token = new_key(root, new_project(root)).secret_key
    confined = new_operator(root, "*:*", projects=[project])
    asked = {"explain": True, "include_record": True}
    assert verify(confined, with_other_secret(token), **asked) == verify(confined, token, **asked)
    assert "UNKNOWN" == verdict(confined, token)


def test_verify_is_expired_from_expire_time_on(root: Caller, project: str) -> None:
    """A key with a life of one second is VALID, then EXPIRED when it is over."""
    made = new_key(root, project, ttl=Duration(seconds=1))
    assert "VALID" == verdict(root, made.secret_key)
    wait_until(lambda: "EXPIRED" == verdict(root, made.secret_key), seconds=5)
    assert key_pb2.KEY_STATE_EXPIRED == get_key(root, made.key.access_key).state


def test_verify_compares_the_expected_facts(root: Caller, project: str) -> None:
    """Access key, project and mode: right or unset ones pass, others have a verdict each."""
    made = new_key(root, project)
    other = new_key(root, project).key.access_key
    for expected, facts in (
        ("VALID", {"access_key": made.key.access_key, "project_id": project}),
        ("VALID", {"mode": key_pb2.KEY_MODE_TEST}),
        ("WRONG_ACCESS_KEY", {"access_key": other}),
        ("WRONG_ACCESS_KEY", {"access_key": "no access key at all"}),
        ("WRONG_PROJECT", {"project_id": absent_project()}),
        ("WRONG_PROJECT", {"project_id": project.upper()}),
        ("WRONG_MODE", {"mode": key_pb2.KEY_MODE_LIVE}),
    ):
        assert (facts, expected) == (facts, verdict(root, made.secret_key, **facts))


@pytest.mark.parametrize(
    ("expected", "restrictions", "allowed", "denied"),
    [
        (
            "IP_NOT_ALLOWED",
            Restrictions(allowed_ips=["10.0.0.0/8", "2001:db8::/32"]),
            [{"client_ip": ip} for ip in ("10.255.0.1", "2001:DB8:0::1", "::ffff:10.0.0.1")],
            [{}, {"client_ip": "11.0.0.1"}, {"client_ip": "2001:db9::1"}],
        ),
        (
            "REFERRER_NOT_ALLOWED",
            Restrictions(allowed_referrers=["https://*.shop.example/app/*"]),
            [
                {"referrer": "https://a.shop.example/app/"},
                {"referrer": "https://A.b.Shop.example:443/app/x?y#z"},
            ],
            [
                {},
                {"referrer": "http://a.shop.example/app/"},
                {"referrer": "https://shop.example/app/"},
                {"referrer": "https://["},
                {"referrer": "https://a.shop.example.evil.example/app/"},
                {"referrer": "https://a.shop.example@evil.example/app/"},
            ],
        ),
        (
            "APP_NOT_ALLOWED",
            Restrictions(
                android_apps=[key_pb2.AndroidApp(package="example.shop", sha1=SHA1.upper())]
            ),
            [{"app": App(android_package="example.shop", android_sha1=SHA1)}],
            [
                {},
                {"app": App(android_package="example.shop")},
                {"app": App(android_package="example.shop", android_sha1="0" * 40)},
                {"app": App(ios_bundle_id="example.shop")},
            ],
        ),
        (
            "APP_NOT_ALLOWED",
            Restrictions(ios_bundle_ids=["example.shop.ios"]),
            [{"app": App(ios_bundle_id="example.shop.ios")}],
            [{}, {"app": App(ios_bundle_id="Example.shop.ios")}],
        ),
        (
            "TARGET_NOT_ALLOWED",
            Restrictions(
                api_targets=[key_pb2.ApiTargetRestriction(service="a.example", methods=["Get*"])]
            ),
            [{"api_target": ApiTarget(service="a.example", method="GetOne")}],
            [
                {},
                {"api_target": ApiTarget(service="a.example", method="SetOne")},
                {"api_target": ApiTarget(service="b.example", method="GetOne")},
            ],
        ),
    ],
    ids=["ip", "referrer", "android", "ios", "target"],
)
def test_verify_with_a_missing_fact_fails_its_restriction(
    root: Caller,
    project: str,
    expected: str,
    restrictions: key_pb2.Restrictions,
    allowed: list[dict[str, Any]],
    denied: list[dict[str, Any]],
) -> None:
    """A fact that was not sent meets no restriction; sent ones are parsed, then compared."""
    token = new_key(root, project, restrictions=restrictions).secret_key
    for facts in allowed:
        assert (facts, "VALID") == (facts, verdict(root, token, **facts))
    for facts in denied:
        assert (facts, expected) == (facts, verdict(root, token, **facts))


@pytest.mark.parametrize(
    ("grant", "needed", "covered"),
    [
        ("billing.*:read", "billing.invoices:read", True),
        ("billing.*:read", "billing.invoices.lines:read", True),
        ("billing.*:read", "billing:read", False),
        ("orders:write", "orders:read", True),
        ("orders:read", "orders:write", False),
        ("*:read", "orders.items:read", True),
        ("orders:*", "orders:delete", True),
        ("orders:*", "orders.items:delete", False),
    ],
)
def test_verify_covers_permissions_by_grants(
    root: Caller, project: str, grant: str, needed: str, covered: bool
) -> None:
    """The contract's examples, for a RESTRICTED and a PUBLISHABLE key."""
    for kind in ("RESTRICTED", "PUBLISHABLE"):
        token = new_key(root, project, kind, permissions=[grant]).secret_key
        expected = "VALID" if covered else "MISSING_PERMISSION"
        assert expected == verdict(root, token, permissions=[needed])


def test_secret_key_holds_every_permission(root: Caller, project: str) -> None:
    """A SECRET key lists none and holds `*:*`; every requested permission must be held."""
    secret = new_key(root, project).secret_key
    restricted = new_key(root, project, "RESTRICTED").secret_key
    assert "VALID" == verdict(root, secret, permissions=["a.b:c", "orders:delete"])
    both = ["orders:read", "orders:write"]
    assert "MISSING_PERMISSION" == verdict(root, restricted, permissions=both)


def test_explain_lists_every_failing_check_in_order(root: Caller, project: str) -> None:
    """The first one is the verdict, with and without the explanation."""
    made = new_key(root, project, "RESTRICTED", restrictions=Restrictions(allowed_ips=["10.0.0.1"]))
    revoke(root, access_key=made.key.access_key)
    facts: dict[str, Any] = {
        "access_key": "KA000000000000000000",
        "project_id": absent_project(),
        "mode": key_pb2.KEY_MODE_LIVE,
        "permissions": ["orders:write"],
    }
    answer = verify(root, made.secret_key, explain=True, **facts)
    names = [key_authority_service_pb2.Verdict.Name(one) for one in answer.failed]
    assert [
        "VERDICT_WRONG_ACCESS_KEY",
        "VERDICT_REVOKED",
        "VERDICT_WRONG_PROJECT",
        "VERDICT_WRONG_MODE",
        "VERDICT_IP_NOT_ALLOWED",
        "VERDICT_MISSING_PERMISSION",
    ] == names
    assert "WRONG_ACCESS_KEY" == verdict(root, made.secret_key, **facts)


def test_include_record_needs_keys_read(root: Caller, project: str) -> None:
    """The right is required for any token."""
    made = new_key(root, project, purpose="nightly export")
    answer = verify(root, made.secret_key, include_record=True)
    assert made.key == lasting(answer.key)
    assert project == answer.project.project_id
    verifier = new_operator(root, "keys:verify")
    for token in (made.secret_key, "x"):
        request = key_authority_service_pb2.VerifyRequest(secret_key=token, include_record=True)
        refused = verifier.refused(request)
        assert ("PERMISSION_DENIED", {"permission": "keys:read"}) == (
            refused.code.name,
            refused.metadata,
        )
    unknown = verify(root, with_other_secret(made.secret_key), include_record=True)
    assert not unknown.HasField("key")
    assert not unknown.HasField("project")


def test_verify_can_demand_a_revision(root: Caller, project: str) -> None:
    """The head and earlier ones are served; a later one or another log is refused."""
    made = new_key(root, project)
    head = verify(root, "x").revision
    for at_least in (0, made.revision, head):
        assert (
            verify(root, "x", at_least_revision=at_least, log_id=made.log_id).revision >= at_least
        )
    for facts, reason in (
        ({"at_least_revision": head + 1_000_000}, "REVISION_AHEAD"),
        ({"at_least_revision": 2**63 - 1}, "REVISION_AHEAD"),
        ({"log_id": absent_project()}, "LOG_MISMATCH"),
    ):
        request = key_authority_service_pb2.VerifyRequest(secret_key=made.secret_key, **facts)
        refused = root.refused(request)
        assert (grpc.StatusCode.FAILED_PRECONDITION, reason) == (refused.code, refused.reason)


async def test_async_client_verifies_as_the_wire_does(server: ServerProcess) -> None:
    """It creates, verifies, lists and revokes as the contract's example does."""
    async with keyauthority.AsyncClient(
        server.address, operator_key=server.operator_key
    ) as authority:
        project = await authority.create_project("Shop")
        created = await authority.create_key(
            project.project_id, mode="test", kind="restricted", permissions=["orders:read"]
        )
        token = created.secret_key
        valid = await authority.verify(token, permissions=["orders:read"], client_ip="10.0.0.7")
        assert (True, project.project_id) == (valid.valid, valid.project_id)
        assert project.project_id == await authority.get_project_id(None, token)
        revoked = await authority.revoke_key(created.key.access_key, reason="key_compromise")
        assert revoked.revision > created.revision
        denied = await authority.verify(token)
        assert keyauthority.VerdictCode.REVOKED is denied.code
        key = await authority.get_key(created.key.access_key)
        assert keyauthority.RevokeReason.KEY_COMPROMISE is key.revoke_reason
        assert UTC is key.create_time.tzinfo
