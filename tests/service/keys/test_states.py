"""The state table: the effect of each call on a key in each state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import pytest
from google.protobuf.message import Message

from keyauthority.v1 import key_authority_service_pb2 as pb
from tests.service.callers import Caller, get_key, lasting, new_key, revoke, verdict
from tests.service.lifecycle import (
    HOUR,
    IN_STATE,
    from_now,
    passed,
    rotate,
    state,
    update,
    update_request,
)

STATES: Final = ("ACTIVE", "DISABLED", "EXPIRED", "SUPERSEDED", "REVOKED")
REFUSED: Final = "FAILED_PRECONDITION"
NO_KEY: Final = "UNAUTHENTICATED"

# Each call, and its result in each state, in the order of STATES.
TABLE: Final = {
    "UpdateKey": ("OK", "OK", "OK", REFUSED, REFUSED),
    "RotateKey": ("OK", REFUSED, "OK", REFUSED, REFUSED),
    "RevokeKey": ("OK", "OK", "OK", "OK", "OK"),
    "RevokeKey by secret": ("OK", "OK", "OK", "OK", "OK"),
    "GetProjectId": ("OK", "OK", "OK", NO_KEY, NO_KEY),
}
REQUESTS: Final[dict[str, Callable[[Any], Message]]] = {
    "UpdateKey": lambda made: update_request(made.key.access_key, purpose="changed"),
    "RotateKey": lambda made: pb.RotateKeyRequest(access_key=made.key.access_key),
    "RevokeKey": lambda made: pb.RevokeKeyRequest(access_key=made.key.access_key),
    "RevokeKey by secret": lambda made: pb.RevokeKeyRequest(secret_key=made.secret_key),
    "GetProjectId": lambda made: pb.GetProjectIdRequest(secret_key=made.secret_key),
}
BY_SECRET: Final = ("RevokeKey by secret", "GetProjectId")
AFTER: Final = {"RevokeKey": "REVOKED", "RevokeKey by secret": "REVOKED"}
CELLS: Final = [
    pytest.param(call, name, outcome, id=f"{call}-{name}".replace(" ", "-"))
    for call, outcomes in TABLE.items()
    for name, outcome in zip(STATES, outcomes, strict=True)
]


def _outcome(caller: Caller, request: Message) -> tuple[str, str, dict[str, str]]:
    method = request.DESCRIPTOR.name.removesuffix("Request")
    refusal = caller.outcome(method, request.SerializeToString())
    if refusal is None:
        return ("OK", "", {})
    return (refusal.code.name, refusal.reason, refusal.metadata)


@pytest.mark.parametrize(("call", "name", "outcome"), CELLS)
def test_call_in_each_state_follows_the_table(
    root: Caller, nobody: Caller, project: str, call: str, name: str, outcome: str
) -> None:
    """A refused call names the key's state and leaves the key unchanged."""
    made = IN_STATE[name](root, project)
    before = get_key(root, made.key.access_key)
    assert name == state(before)
    caller = nobody if call in BY_SECRET else root
    expected = {
        "OK": ("OK", "", {}),
        REFUSED: (REFUSED, "KEY_STATE", {"state": f"KEY_STATE_{name}"}),
        NO_KEY: (NO_KEY, "CREDENTIAL_INVALID", {}),
    }[outcome]
    assert expected == _outcome(caller, REQUESTS[call](made))
    after = get_key(root, made.key.access_key)
    if outcome != "OK" or call == "GetProjectId" or name == "REVOKED":
        assert lasting(before) == lasting(after)
    else:
        assert before.revision < after.revision
    if name != "EXPIRED" or call != "RotateKey":  # then it is superseded at its own end
        assert AFTER.get(call, name) == state(after)


@pytest.mark.parametrize("name", STATES)
def test_verify_of_an_inactive_key_names_its_state(root: Caller, project: str, name: str) -> None:
    """A key that is not ACTIVE is denied with its state."""
    made = IN_STATE[name](root, project)
    expected = "VALID" if name == "ACTIVE" else name
    assert expected == verdict(root, made.secret_key)


def test_denied_verify_names_the_project_of_recoverable_keys(
    root: Caller, nobody: Caller, project: str
) -> None:
    """Disabled and expired keys still return their project."""
    for name in ("ACTIVE", "DISABLED", "EXPIRED"):
        made = IN_STATE[name](root, project)
        request = pb.GetProjectIdRequest(access_key=made.key.access_key, secret_key=made.secret_key)
        assert project == nobody.ask(request).project_id


def test_expired_key_is_valid_again_after_extension(root: Caller, project: str) -> None:
    """Secret and access key stay; removing the end has the same effect."""
    for end in (from_now(HOUR), None):
        made = IN_STATE["EXPIRED"](root, project)
        assert "EXPIRED" == verdict(root, made.secret_key)
        assert "ACTIVE" == state(update(root, made.key.access_key, expire_time=end).key)
        assert "VALID" == verdict(root, made.secret_key)


def test_disabled_key_is_valid_again_after_enabling(root: Caller, project: str) -> None:
    """The next update can undo disabling."""
    made = IN_STATE["DISABLED"](root, project)
    assert "ACTIVE" == state(update(root, made.key.access_key, disabled=False).key)
    assert "VALID" == verdict(root, made.secret_key)


def test_revoked_key_cannot_be_restored(root: Caller, project: str) -> None:
    """A new end, enabling and another revocation change nothing."""
    made = IN_STATE["REVOKED"](root, project)
    before = get_key(root, made.key.access_key)
    for fields in ({"disabled": False}, {"expire_time": from_now(HOUR)}, {"purpose": "x"}):
        assert "KEY_STATE" == root.refused(update_request(made.key.access_key, **fields)).reason
    assert before == revoke(root, access_key=made.key.access_key, note="again").key
    assert "REVOKED" == verdict(root, made.secret_key)


def test_several_end_states_show_the_first_in_order(root: Caller, project: str) -> None:
    """REVOKED before SUPERSEDED before EXPIRED before DISABLED."""
    made = new_key(root, project, ttl=HOUR)
    access_key = made.key.access_key
    rotated = rotate(root, access_key, 1)
    assert "DISABLED" == state(update(root, access_key, disabled=True).key)
    assert "EXPIRED" == state(update(root, access_key, expire_time=from_now(-HOUR)).key)
    passed(rotated.previous.supersede_time)
    assert "SUPERSEDED" == state(get_key(root, access_key))
    assert "REVOKED" == state(revoke(root, access_key=access_key).key)


def test_update_of_an_expired_key_may_leave_it_expired(root: Caller, project: str) -> None:
    """Every field may change; only a new end makes it active again."""
    made = IN_STATE["EXPIRED"](root, project)
    changed = update(root, made.key.access_key, purpose="kept for its name").key
    assert ("EXPIRED", "kept for its name") == (state(changed), changed.purpose)
    assert made.key.expire_time == changed.expire_time


def test_disabled_and_expired_key_cannot_be_rotated(root: Caller, project: str) -> None:
    """Its state is EXPIRED, but its successor would be disabled too."""
    made = IN_STATE["EXPIRED"](root, project)
    update(root, made.key.access_key, disabled=True)
    refused = root.refused(pb.RotateKeyRequest(access_key=made.key.access_key))
    assert (REFUSED, {"state": "KEY_STATE_DISABLED"}) == (refused.code.name, refused.metadata)
