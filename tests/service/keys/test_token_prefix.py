"""`--token-prefix`: new tokens carry it, and all earlier tokens go on verifying."""

from __future__ import annotations

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from keyauthority.v1 import key_authority_service_pb2
from tests.conftest import Start
from tests.service.callers import Caller, bearer, mended, new_key, new_project, verdict
from tests.service.forkserver import shared
from tests.service.processes import ServerProcess

KINDS = ("SECRET", "RESTRICTED", "PUBLISHABLE")
LOOKUP = key_authority_service_pb2.LookupKeyRequest


def caller_of(server: ServerProcess) -> Caller:
    """Return the first operator on a new connection."""
    return Caller(grpc.insecure_channel(server.address), server.metadata)


def test_tokens_of_every_prefix_verify_after_the_flag_changes(start_server: Start) -> None:
    """New, rotated, operator and publishable tokens carry the prefix of their time."""
    tokens: list[str] = []
    for prefix in ("acme", "", "other99"):
        server = start_server("--token-prefix", prefix)
        root, start = caller_of(server), f"{prefix}_" if prefix else ""
        project = new_project(root)
        made = [new_key(root, project, kind) for kind in KINDS]
        rotate = key_authority_service_pb2.RotateKeyRequest(
            access_key=made[0].key.access_key, overlap=Duration(seconds=600)
        )
        new = [*(each.secret_key for each in made), root.ask(rotate).secret_key]
        operator = new_key(root, "", "OPERATOR").secret_key
        assert made[2].key.publishable_key == new[2]
        assert [start] * len(new) == [token.partition("_KA")[0][: -len("sk_test")] for token in new]
        assert operator.startswith(f"{start}op_live_KA")
        tokens += new
        assert ["VALID"] * len(tokens) == [verdict(root, token) for token in tokens]
        found = root.bearing(bearer(operator)).ask(LOOKUP(secret_key=tokens[0])).key
        assert found.access_key in tokens[0]
        assert server.operator_key.startswith("acme_op_live_KA")
        assert 0 == server.stop().code


def test_token_with_another_prefix_is_unknown(start_server: Start) -> None:
    """A prefix taken away, taken_away or exchanged, with right check digits, proves no key."""
    root = caller_of(start_server("--token-prefix", "acme"))
    project = new_project(root)
    for kind in KINDS:
        token = new_key(root, project, kind).secret_key
        bare = token.removeprefix("acme_")
        for forged in (bare, f"other_{bare}", f"acmf_{bare}"):
            assert "MALFORMED" == verdict(root, forged)
            assert "UNKNOWN" == verdict(root, mended(forged))
    taken_away = mended(root.metadata[0][1].removeprefix("Bearer acme_"))
    refused = root.bearing(bearer(taken_away)).refused(key_authority_service_pb2.GetCallerRequest())
    assert "CREDENTIAL_INVALID" == refused.reason


@pytest.mark.parametrize("prefix", ["sk", "A", "a", "1a", "a" * 17, "a-b", "ac me"])
def test_invalid_prefix_is_refused_at_start(prefix: str) -> None:
    """One line that says which are possible, exit code 2."""
    refused = shared().run("serve", "--token-prefix", prefix)
    assert 2 == refused.code
    assert "--token-prefix: must be 2 to 16 lower-case letters and digits" in refused.log


def test_operator_create_takes_the_prefix_of_the_environment(start_server: Start) -> None:
    """The command on the machine issues tokens like those of the server."""
    data = start_server("--token-prefix", "acme").data
    made = shared().run(
        *("operator", "create", "--data", str(data)),
        settings={"KEYAUTHORITY_TOKEN_PREFIX": "acme"},
    )
    assert 0 == made.code
    assert made.output.startswith("acme_op_live_KA")
