"""The decision: each rule, their order, and the states of a key."""

from __future__ import annotations

import pickle
import tracemalloc
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import combinations
from typing import Any

import pytest

from keyauthority.decision import decide, explain, grants_of, state_of
from keyauthority.model import (
    AndroidApp,
    ApiTarget,
    ApiTargetRestriction,
    App,
    Facts,
    Key,
    KeyKind,
    KeyMode,
    KeyState,
    Project,
    Restrictions,
    VerdictCode,
)

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)
BEFORE = NOW - timedelta(days=1)
PROJECT_ID = "6f1f5b39-1c1b-4f0e-9d52-0d8ab0f0a001"
OTHER_ID = "6f1f5b39-1c1b-4f0e-9d52-0d8ab0f0a002"
SHA1 = "da39a3ee5e6b4b0d3255bfef95601890afd80709"

KEY = Key(
    access_key="KA7Q2M9X4T8B3N6W5R1P",
    project_id=PROJECT_ID,
    mode=KeyMode.LIVE,
    kind=KeyKind.RESTRICTED,
    permissions=("orders:read",),
    create_time=BEFORE,
    update_time=BEFORE,
    revision=7,
)
PROJECT = Project(project_id=PROJECT_ID, create_time=BEFORE, update_time=BEFORE, revision=1)

# The contract's order (section 4), without the checks before the decision and the limits after it.
ORDER = [
    VerdictCode.WRONG_ACCESS_KEY,
    VerdictCode.REVOKED,
    VerdictCode.SUPERSEDED,
    VerdictCode.EXPIRED,
    VerdictCode.DISABLED,
    VerdictCode.PROJECT_SUSPENDED,
    VerdictCode.WRONG_PROJECT,
    VerdictCode.WRONG_MODE,
    VerdictCode.IP_NOT_ALLOWED,
    VerdictCode.REFERRER_NOT_ALLOWED,
    VerdictCode.APP_NOT_ALLOWED,
    VerdictCode.TARGET_NOT_ALLOWED,
    VerdictCode.MISSING_PERMISSION,
]

# For each verdict: the key, restrictions, project and facts that make it fail.
FAILING: dict[VerdictCode, dict[str, dict[str, Any]]] = {
    VerdictCode.WRONG_ACCESS_KEY: {"facts": {"access_key": "KA000000000000000000"}},
    VerdictCode.REVOKED: {"key": {"revoke_time": BEFORE}},
    VerdictCode.SUPERSEDED: {"key": {"supersede_time": NOW}},
    VerdictCode.EXPIRED: {"key": {"expire_time": NOW}},
    VerdictCode.DISABLED: {"key": {"disabled": True}},
    VerdictCode.PROJECT_SUSPENDED: {"project": {"suspended": True}},
    VerdictCode.WRONG_PROJECT: {"facts": {"project_id": OTHER_ID}},
    VerdictCode.WRONG_MODE: {"facts": {"mode": KeyMode.TEST}},
    VerdictCode.IP_NOT_ALLOWED: {
        "restrictions": {"allowed_ips": ("10.0.0.0/8",)},
        "facts": {"client_ip": "192.0.2.1"},
    },
    VerdictCode.REFERRER_NOT_ALLOWED: {
        "restrictions": {"allowed_referrers": ("https://shop.example/*",)},
        "facts": {"referrer": "https://evil.test/"},
    },
    VerdictCode.APP_NOT_ALLOWED: {
        "restrictions": {"ios_bundle_ids": ("example.shop",)},
        "facts": {"app": App(ios_bundle_id="example.other")},
    },
    VerdictCode.TARGET_NOT_ALLOWED: {
        "restrictions": {"api_targets": (ApiTargetRestriction("translate.example"),)},
        "facts": {"api_target": ApiTarget("maps.example")},
    },
    VerdictCode.MISSING_PERMISSION: {"facts": {"permissions": ("orders:read", "orders:write")}},
}

Case = tuple[Key, Project, Facts, datetime]


def _case(*codes: VerdictCode) -> Case:
    """Return a case in which the checks of these verdicts fail, and no other."""
    parts: dict[str, dict[str, Any]] = {"key": {}, "restrictions": {}, "project": {}, "facts": {}}
    for code in codes:
        for part, fields in FAILING[code].items():
            parts[part].update(fields)
    key = replace(KEY, restrictions=Restrictions(**parts["restrictions"]), **parts["key"])
    return key, replace(PROJECT, **parts["project"]), Facts(**parts["facts"]), NOW


def _state(**fields: Any) -> KeyState:
    return state_of(replace(KEY, **fields), NOW)


def test_rules_follow_the_contracts_order() -> None:
    """Every rule of the contract appears once, in its order."""
    assert list(explain(*_case(*ORDER))) == ORDER
    assert list(FAILING) == ORDER


def test_verdicts_are_declared_in_the_contracts_order() -> None:
    """The rules follow the enumeration, so `failed` is sorted by both."""
    declared = list(VerdictCode)
    assert [code for code in declared if code in ORDER] == ORDER
    assert declared[:3] == [VerdictCode.VALID, VerdictCode.MALFORMED, VerdictCode.UNKNOWN]
    assert declared[-2:] == [VerdictCode.RATE_LIMITED, VerdictCode.QUOTA_EXCEEDED]


def test_key_without_failing_checks_is_valid() -> None:
    """Without facts and faults the verdict is VALID."""
    case = _case()
    assert decide(*case) is VerdictCode.VALID
    assert explain(*case) == ()


@pytest.mark.parametrize("code", ORDER)
def test_single_failing_check_is_the_verdict(code: VerdictCode) -> None:
    """Each check denies on its own, with its own verdict."""
    case = _case(code)
    assert decide(*case) is code
    assert explain(*case) == (code,)


@pytest.mark.parametrize(("first", "second"), list(combinations(ORDER, 2)))
def test_first_of_two_failing_checks_is_the_verdict(
    first: VerdictCode, second: VerdictCode
) -> None:
    """The first applicable verdict decides; explain names both in order."""
    case = _case(second, first)
    assert decide(*case) is first
    assert explain(*case) == (first, second)


def test_all_failing_checks_are_explained_in_order() -> None:
    """An explanation omits nothing."""
    case = _case(*ORDER)
    assert decide(*case) is ORDER[0]
    assert explain(*case) == tuple(ORDER)


def test_matching_facts_are_valid() -> None:
    """With every fact given correctly the verdict is VALID."""
    restrictions = Restrictions(
        allowed_ips=("192.0.2.1", "10.0.0.0/8"),
        allowed_referrers=("https://shop.example/*",),
        android_apps=(AndroidApp("example.shop", SHA1),),
        ios_bundle_ids=("example.shop",),
        api_targets=(ApiTargetRestriction("translate.example", ("Get*",)),),
    )
    facts = Facts(
        access_key=KEY.access_key,
        project_id=PROJECT_ID,
        mode=KeyMode.LIVE,
        permissions=("orders:read",),
        client_ip="10.1.2.3",
        referrer="https://shop.example/cart",
        app=App(android_package="example.shop", android_sha1=SHA1, ios_bundle_id="example.shop"),
        api_target=ApiTarget("translate.example", "GetText"),
    )
    assert explain(replace(KEY, restrictions=restrictions), PROJECT, facts, NOW) == ()


@pytest.mark.parametrize(
    "code",
    [
        VerdictCode.IP_NOT_ALLOWED,
        VerdictCode.REFERRER_NOT_ALLOWED,
        VerdictCode.APP_NOT_ALLOWED,
        VerdictCode.TARGET_NOT_ALLOWED,
    ],
)
def test_missing_fact_fails_its_restriction(code: VerdictCode) -> None:
    """Omitting a fact does not bypass a restriction."""
    key, project, _, now = _case(code)
    assert explain(key, project, Facts(), now) == (code,)


@pytest.mark.parametrize("client_ip", ["no address", "10.0.0.1%", "\ud800", "10.0.0.1/8"])
def test_malformed_fact_fails_its_restriction(client_ip: str) -> None:
    """The decision never raises: a malformed address is not allowed."""
    key = replace(KEY, restrictions=Restrictions(allowed_ips=("0.0.0.0/0", "::/0")))
    assert decide(key, PROJECT, Facts(client_ip=client_ip), NOW) is VerdictCode.IP_NOT_ALLOWED


def test_both_app_lists_must_hold() -> None:
    """Different lists are combined with AND: an Android app is no iOS app."""
    restrictions = Restrictions(
        android_apps=(AndroidApp("example.shop", SHA1),), ios_bundle_ids=("example.shop",)
    )
    facts = Facts(app=App(android_package="example.shop", android_sha1=SHA1))
    verdict = decide(replace(KEY, restrictions=restrictions), PROJECT, facts, NOW)
    assert verdict is VerdictCode.APP_NOT_ALLOWED


@pytest.mark.parametrize(
    ("field", "code"),
    [("expire_time", VerdictCode.EXPIRED), ("supersede_time", VerdictCode.SUPERSEDED)],
)
def test_key_ends_exactly_at_its_end(field: str, code: VerdictCode) -> None:
    """A key ends when now equals its end, not a microsecond before."""
    ends: dict[str, Any] = {field: NOW}
    key = replace(KEY, **ends)
    assert decide(key, PROJECT, Facts(), NOW - MOMENT) is VerdictCode.VALID
    assert decide(key, PROJECT, Facts(), NOW) is code
    assert decide(key, PROJECT, Facts(), NOW + MOMENT) is code


def test_revoked_key_is_revoked_at_any_time() -> None:
    """Revocation is independent of the clock: a future revoke_time denies as well."""
    key = replace(KEY, revoke_time=NOW + timedelta(days=1))
    assert decide(key, PROJECT, Facts(), NOW) is VerdictCode.REVOKED
    assert state_of(key, NOW) is KeyState.REVOKED


def test_operator_key_is_evaluated_without_a_project() -> None:
    """An operator key belongs to no project."""
    operator = replace(KEY, project_id="", kind=KeyKind.OPERATOR, permissions=("keys:*",))
    assert decide(operator, None, Facts(permissions=("keys:read",)), NOW) is VerdictCode.VALID
    denied = decide(operator, None, Facts(permissions=("operators:read",)), NOW)
    assert denied is VerdictCode.MISSING_PERMISSION


@pytest.mark.parametrize(
    ("kind", "permissions", "expected"),
    [
        (KeyKind.SECRET, (), ("*:*",)),
        (KeyKind.RESTRICTED, ("orders:read",), ("orders:read",)),
        (KeyKind.PUBLISHABLE, (), ()),
        (KeyKind.OPERATOR, ("keys:*",), ("keys:*",)),
    ],
)
def test_only_secret_keys_hold_unlisted_permissions(
    kind: KeyKind, permissions: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    """SECRET holds everything; other kinds hold their list."""
    assert grants_of(replace(KEY, kind=kind, permissions=permissions)) == expected


def test_state_is_the_first_applicable() -> None:
    """REVOKED before SUPERSEDED before EXPIRED before DISABLED, else ACTIVE."""
    assert _state() is KeyState.ACTIVE
    assert _state(supersede_time=NOW + MOMENT, expire_time=NOW + MOMENT) is KeyState.ACTIVE
    assert _state(disabled=True) is KeyState.DISABLED
    assert _state(disabled=True, expire_time=NOW) is KeyState.EXPIRED
    assert _state(disabled=True, expire_time=NOW, supersede_time=NOW) is KeyState.SUPERSEDED
    everything = _state(disabled=True, expire_time=NOW, supersede_time=NOW, revoke_time=NOW)
    assert everything is KeyState.REVOKED


def test_caller_facts_are_not_cached() -> None:
    """Memory depends on the records, not on the texts that callers send."""
    restrictions = Restrictions(
        allowed_ips=("2001:db8::/32",), allowed_referrers=("https://*.shop.example/*",)
    )
    key = replace(KEY, restrictions=restrictions)

    def judge(number: int) -> None:
        page = f"https://www.shop.example/{number:04000}"
        facts = Facts(
            client_ip=f"2001:db8::{number:x}", referrer=page, permissions=(f"a{number}:read",)
        )
        assert (VerdictCode.MISSING_PERMISSION,) == explain(key, PROJECT, facts, NOW)

    judge(0)
    tracemalloc.start()
    try:
        for number in range(1, 1_000):
            judge(number)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 100_000  # a thousand pages are 4 MB


def test_record_is_compiled_once_across_last_use_updates(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The compiled form belongs to the record; another record has its own."""
    key = replace(KEY, permissions=("orders:read",), kind=KeyKind.RESTRICTED)
    facts = Facts(permissions=("orders:write",))
    assert decide(key, PROJECT, facts, NOW) is VerdictCode.MISSING_PERMISSION
    wider = replace(key, permissions=("orders:write",))
    assert decide(wider, PROJECT, facts, NOW) is VerdictCode.VALID
    assert key == replace(key)  # compared without it
    monkeypatch.setattr("keyauthority.decision.CompiledKey", None)
    for compiled in (key, wider):
        decide(compiled, PROJECT, facts, NOW)
    with pytest.raises(TypeError):
        decide(replace(key), PROJECT, facts, NOW)
    assert key == pickle.loads(pickle.dumps(key))  # noqa: S301 - made on this line


def test_unreadable_entry_allows_nothing() -> None:
    """A record of another version is still evaluated and grants nothing by it."""
    for restrictions in (
        Restrictions(allowed_ips=("10.0.0.0/255.0.0.0",)),
        Restrictions(allowed_referrers=("https://*:*/",)),
    ):
        key = replace(KEY, restrictions=restrictions)
        facts = Facts(client_ip="10.0.0.1", referrer="https://shop.example/")
        assert decide(key, PROJECT, facts, NOW) is not VerdictCode.VALID
