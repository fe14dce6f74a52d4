"""ImportKeys: tokens of other systems go on verifying."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority.v1 import key_pb2
from tests.service.callers import (
    Caller,
    absent_project,
    get_key,
    new_key,
    new_operator,
    new_project,
    revoke,
    verdict,
    verify,
    with_other_secret,
)
from tests.service.imports import (
    PREFIX,
    SCHEMES,
    import_set,
    imported,
    item,
    new_token,
    own_server,
)
from tests.service.processes import ServerProcess, wait_until


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server of this module's own, for each engine."""
    yield from own_server(request.param, request, tmp_path_factory)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_imported_token_verifies_like_any_key(root: Caller, project: str, scheme: str) -> None:
    """Verdict, record, project, lookup; in a batch beside other tokens."""
    token, wanted = new_token(), import_set(scheme=scheme)
    key = item(token, project, scheme, foreign_id="row 7", purpose="moved", labels={"a": "b"})
    (access_key,) = imported(root, wanted, [key])
    answer = verify(root, token, include_record=True)
    assert (True, access_key, project) == (answer.valid, answer.access_key, answer.project_id)
    record = get_key(root, access_key)
    assert (wanted.name, "row 7", "moved") == (record.import_set, record.foreign_id, record.purpose)
    assert (wanted.name, {"a": "b"}) == (answer.key.import_set, dict(answer.key.labels))
    assert access_key == root.ask(pb.LookupKeyRequest(secret_key=token)).key.access_key
    assert project == root.ask(pb.GetProjectIdRequest(secret_key=token)).project_id
    native = new_key(root, project).secret_key
    texts = [token, native, new_token(), "x", token, "\u00e9" * 36]
    batch = pb.BatchVerifyRequest(requests=[pb.VerifyRequest(secret_key=text) for text in texts])
    verdicts = [pb.Verdict.Name(each.verdict)[8:] for each in root.ask(batch).responses]
    assert ["VALID", "VALID", "UNKNOWN", "MALFORMED", "VALID", "MALFORMED"] == verdicts


def test_digest_of_the_part_after_the_last_underscore_is_compared(
    root: Caller, project: str
) -> None:
    """Only that part is digested; prefix and length are those of the whole token."""
    token = f"{PREFIX}ab_{secrets.token_hex(15)}"[:36]
    digest = SCHEMES["SHA256_HEX"](token.rpartition("_")[2].encode())
    wanted = import_set(token_part=pb.TOKEN_PART_AFTER_LAST_UNDERSCORE)
    imported(root, wanted, [item(token, project, digest=digest)])
    assert "VALID" == verdict(root, token)
    assert "MALFORMED" == verdict(root, token.rpartition("_")[2])
    other = f"{PREFIX}cd_{token.rpartition('_')[2]}"
    assert "VALID" == verdict(root, other)  # the other system does not digest the rest either


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_token_with_keys_in_two_sets_is_that_of_the_first_by_name(
    root: Caller, project: str, order: tuple[int, int]
) -> None:
    """Whichever was imported first."""
    token, name = new_token(), f"set-{secrets.token_hex(8)}"
    schemes = ["SHA512_HEX", "SHA256_HEX"]
    sets = [import_set(f"{name}-{number}", scheme) for number, scheme in enumerate(schemes)]
    made = {}
    for number in order:
        (made[number],) = imported(root, sets[number], [item(token, project, schemes[number])])
    assert made[0] == verify(root, token).access_key


@pytest.mark.parametrize("scheme", SCHEMES)
def test_stored_digest_is_no_token(root: Caller, project: str, scheme: str) -> None:
    """A stolen table opens nothing: UNKNOWN if the text fits a set, else MALFORMED."""
    token = new_token()
    digest = SCHEMES[scheme](token.encode())
    imported(root, import_set(scheme=scheme), [item(token, project, scheme)])
    assert "MALFORMED" == verdict(root, digest)
    length = len(digest)
    fitting = import_set(
        scheme=scheme, token_prefix="", token_length_min=length, token_length_max=length
    )
    imported(root, fitting, [item(new_token(), project, scheme)])
    assert "UNKNOWN" == verdict(root, digest)
    assert "KEY_NOT_FOUND" == root.refused(pb.LookupKeyRequest(secret_key=digest)).reason


def test_unknown_tokens_of_any_system_return_identical_bytes(
    root: Caller, nobody: Caller, project: str
) -> None:
    """Of no key, of a revoked key, of a key elsewhere; of a set's form or this authority's."""
    kept, ended = (new_token() for _ in range(2))
    _, access_key = imported(root, import_set(), [item(one, project) for one in (kept, ended)])
    native = new_key(root, project).secret_key
    revoke(root, access_key=access_key)
    confined = new_operator(root, "keys:read", "keys:verify", projects=[new_project(root)])
    for scoped in (kept, native, with_other_secret(native), new_token()):  # in memory, then not
        verify(root, scoped)
    texts = (kept, ended, native, with_other_secret(native), new_token())
    answers = {verify(confined, text, explain=True).SerializeToString() for text in texts}
    refusals = {confined.refused(pb.LookupKeyRequest(secret_key=text)).status for text in texts}
    bare = {
        nobody.refused(pb.GetProjectIdRequest(secret_key=text)).status
        for text in (ended, ended, with_other_secret(native), new_token(), "x")
    }
    assert [1, 1, 1] == [len(answers), len(refusals), len(bare)]
    assert "UNKNOWN" == verdict(confined, kept)


def test_each_item_has_its_own_outcome(root: Caller, project: str) -> None:
    """Bad items are named, the others are imported; a repeated item is one key."""
    elsewhere, good, taken = new_project(root), new_token(), new_token()
    wanted = import_set()
    imported(root, wanted, [item(taken, elsewhere)])
    digest = SCHEMES["SHA256_HEX"](good.encode())
    items = [
        item(good, project),
        item(good, project),
        item(new_token(), project, digest=digest[:-1]),
        item(new_token(), project, digest=digest.upper()),
        item(new_token(), project, digest=""),
        item(new_token(), absent_project()),
        item(taken, project),
        item(new_token(), project, kind=key_pb2.KEY_KIND_OPERATOR),
        item(new_token(), project, purpose="x" * 201),
        item(new_token(), project, permissions=["a:b"]),
        item(new_token(), project, mode=key_pb2.KEY_MODE_UNSPECIFIED),
        item(new_token(), project, expire_time=Timestamp(seconds=1_600_000_000)),
    ]
    answer = root.ask(pb.ImportKeysRequest(import_set=wanted, keys=items))
    outcomes = [
        result.error.reason.removeprefix("ERROR_REASON_") or result.created
        for result in answer.results
    ]
    invalid = "INVALID_FIELD"
    assert [
        *(True, False, invalid, invalid, invalid, "PROJECT_NOT_FOUND", "DIGEST_TAKEN"),
        *(invalid, invalid, invalid, invalid, True),
    ] == outcomes
    messages = [result.error.message for result in answer.results]
    for index, field in ((2, "digest"), (7, "kind"), (8, "purpose"), (9, "permissions")):
        assert messages[index].startswith(f"{field}: ")
    assert answer.results[0].access_key == answer.results[1].access_key
    again = root.ask(pb.ImportKeysRequest(import_set=wanted, keys=items[:1]))
    assert (answer.results[0].access_key, False) == (
        again.results[0].access_key,
        again.results[0].created,
    )
    assert answer.revision == again.revision


def test_set_with_another_shape_is_refused(root: Caller, project: str) -> None:
    """The name stands for one scheme, part, prefix and length."""
    wanted = import_set("shape-of-tokens")
    imported(root, wanted, [item(new_token(), project)])
    for name, value in (
        ("scheme", pb.IMPORT_SCHEME_SHA512_HEX),
        ("token_part", pb.TOKEN_PART_AFTER_LAST_UNDERSCORE),
        ("token_prefix", "new_"),
        ("token_length_min", 35),
        ("token_length_max", 37),
    ):
        other = pb.ImportSet()
        other.CopyFrom(wanted)
        setattr(other, name, value)
        refused = root.refused(
            pb.ImportKeysRequest(import_set=other, keys=[item(new_token(), project)])
        )
        assert ("FAILED_PRECONDITION", "IMPORT_SET_MISMATCH") == (refused.code.name, refused.reason)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "*"),
        ("name", "a b"),
        ("name", "a" * 64),
        ("scheme", 0),
        ("scheme", 99),
        ("token_part", 99),
        ("token_prefix", "\u00e9"),
        ("token_prefix", "x" * 65),
        ("token_length_min", 0),
        ("token_length_min", 37),
        ("token_length_max", 513),
        ("token_length_max", -1),
    ],
)
def test_invalid_set_is_named(root: Caller, project: str, field: str, value: Any) -> None:
    """Nothing is imported."""
    wanted = import_set()
    setattr(wanted, field, value)
    refused = root.refused(
        pb.ImportKeysRequest(import_set=wanted, keys=[item(new_token(), project)])
    )
    assert "INVALID_ARGUMENT" == refused.code.name
    assert any(name.startswith("import_set.") for name in refused.fields)


def test_validation_only_changes_nothing(root: Caller, project: str) -> None:
    """The outcomes are those of the import, without access keys of new keys; no set is made."""
    token, wanted = new_token("dry_"), import_set(token_prefix="dry_")
    before = verify(root, "").revision
    request = pb.ImportKeysRequest(
        import_set=wanted,
        keys=[item(token, project), item(token, project), item(token, absent_project())],
        validate_only=True,
    )
    answer = root.ask(request)
    assert [(True, ""), (False, ""), (False, "")] == [
        (result.created, result.access_key) for result in answer.results
    ]
    assert answer.results[2].error.reason == "ERROR_REASON_PROJECT_NOT_FOUND"
    assert (before, "MALFORMED") == (verify(root, "").revision, verdict(root, token))


def test_import_needs_its_right_and_no_confinement(root: Caller, project: str) -> None:
    """keys:import alone suffices; an operator confined to projects has no right to import."""
    request = pb.ImportKeysRequest(import_set=import_set(), keys=[item(new_token(), project)])
    confined = new_operator(root, "keys:import", projects=[project])
    for caller in (confined, new_operator(root, "keys:create", "keys:update")):
        assert "PERMISSION_MISSING" == caller.refused(request).reason
    importer = new_operator(root, "keys:import")
    (result,) = importer.ask(request).results
    assert importer.key.access_key == get_key(root, result.access_key).created_by


def test_restrictions_permissions_and_limits_apply(root: Caller, project: str) -> None:
    """As for any key."""
    token = new_token()
    key = item(
        token,
        project,
        kind=key_pb2.KEY_KIND_RESTRICTED,
        permissions=["orders:read"],
        restrictions=key_pb2.Restrictions(allowed_ips=["10.0.0.0/8"]),
        rate_limit=key_pb2.RateLimit(limit=1, period=Duration(seconds=86400)),
    )
    imported(root, import_set(), [key])
    facts = {"client_ip": "10.1.2.3", "permissions": ["orders:read"]}
    assert "IP_NOT_ALLOWED" == verdict(root, token, client_ip="192.0.2.1")
    assert "MISSING_PERMISSION" == verdict(root, token, client_ip="10.1.2.3", permissions=["a:b"])
    assert ["VALID", "RATE_LIMITED"] == [verdict(root, token, **facts) for _ in range(2)]


def test_revoked_imported_key_stays_revoked(root: Caller, nobody: Caller, project: str) -> None:
    """By its own token, for every later import too."""
    token, wanted = new_token(), import_set()
    (access_key,) = imported(root, wanted, [item(token, project)])
    assert "VALID" == verdict(root, token)
    assert access_key == revoke(nobody, secret_key=token).key.access_key
    assert "REVOKED" == verdict(root, token)
    again = root.ask(pb.ImportKeysRequest(import_set=wanted, keys=[item(token, project)]))
    assert (access_key, False) == (again.results[0].access_key, again.results[0].created)
    assert "REVOKED" == verdict(root, token)
    assert "CREDENTIAL_INVALID" == nobody.refused(pb.GetProjectIdRequest(secret_key=token)).reason


def test_rotation_makes_a_key_of_this_authority(root: Caller, project: str) -> None:
    """The successor has a token of its own grammar; the old one works until the overlap ends."""
    token = new_token()
    (access_key,) = imported(root, import_set(), [item(token, project, purpose="moved")])
    rotated = root.ask(
        pb.RotateKeyRequest(access_key=access_key, overlap=Duration(nanos=300_000_000))
    )
    assert ("", "", "moved") == (
        rotated.key.import_set,
        rotated.key.foreign_id,
        rotated.key.purpose,
    )
    assert rotated.secret_key.startswith("sk_test_KA")
    assert "VALID" == verdict(root, rotated.secret_key)
    wait_until(lambda: "SUPERSEDED" == verdict(root, token))


def test_list_filters_by_import_set(root: Caller, project: str) -> None:
    """Keys that were never used since their import, those of any set, those of an absent one."""
    used, unused, wanted = new_token(), new_token(), import_set()
    new_key(root, project)
    first, second = imported(root, wanted, [item(used, project), item(unused, project)])
    assert "VALID" == verdict(root, used)
    wait_until(lambda: get_key(root, first).HasField("last_used_time"))

    def listed(name: str, **more: Any) -> list[str]:
        wanted_keys = pb.KeyFilter(import_set=name, **more)
        request = pb.ListKeysRequest(project_id=project, filter=wanted_keys)
        return [key.access_key for key in root.ask(request).keys]

    assert [first, second] == listed(wanted.name) == listed("*")
    assert [second] == listed(wanted.name, never_used=True)
    assert [] == listed("absent")
    refused = root.refused(pb.ListKeysRequest(filter=pb.KeyFilter(import_set="a b")))
    assert {"filter.import_set"} == refused.fields


def test_a_thousand_keys_are_imported_by_one_call(root: Caller, project: str) -> None:
    """Each is one change; more are an invalid argument."""
    tokens = [new_token() for _ in range(1000)]
    before, wanted = verify(root, "").revision, import_set()
    items = [item(token, project) for token in tokens]
    access_keys = imported(root, wanted, items)
    assert 1000 == len(set(access_keys))
    assert before + 1000 <= verify(root, "").revision
    assert ["VALID"] * 3 == [verdict(root, tokens[index]) for index in (0, 500, 999)]
    refused = root.refused(
        pb.ImportKeysRequest(import_set=wanted, keys=[*items, item(new_token(), project)])
    )
    assert {"keys"} == refused.fields
