"""Precedence of verdicts: of every two failing checks the earlier decides."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, Final

from google.protobuf.duration_pb2 import Duration

from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority.v1 import key_pb2
from tests.service.callers import (
    ABSENT_KEY,
    BASE62,
    Caller,
    absent_project,
    new_key,
    new_project,
    revoke,
    verify,
    with_other_secret,
)
from tests.service.lifecycle import HOUR, from_now, passed, rotate, update, update_project

THREADS: Final = 8  # that make cases at once
OVERLAP_SECONDS: Final = 1.0  # in which a key is still changed before it is superseded

# The contract's order (section 4), VALID aside. The first two tell nothing of any key.
NOTHING_KNOWN: Final = ("MALFORMED", "UNKNOWN")
ORDER: Final = (
    *("WRONG_ACCESS_KEY", "REVOKED", "SUPERSEDED", "EXPIRED", "DISABLED", "PROJECT_SUSPENDED"),
    *("WRONG_PROJECT", "WRONG_MODE", "IP_NOT_ALLOWED", "REFERRER_NOT_ALLOWED", "APP_NOT_ALLOWED"),
    *("TARGET_NOT_ALLOWED", "MISSING_PERMISSION", "RATE_LIMITED", "QUOTA_EXCEEDED"),
)
PAIRS: Final = list(combinations(ORDER, 2))

RESTRICTIONS: Final[dict[str, dict[str, Any]]] = {
    "IP_NOT_ALLOWED": {"allowed_ips": ["10.0.0.0/8"]},
    "REFERRER_NOT_ALLOWED": {"allowed_referrers": ["https://shop.example/*"]},
    "APP_NOT_ALLOWED": {"ios_bundle_ids": ["example.shop"]},
    "TARGET_NOT_ALLOWED": {"api_targets": [{"service": "translate.example"}]},
}
LIMITS: Final[dict[str, dict[str, Any]]] = {
    "RATE_LIMITED": {"rate_limit": {"limit": 0, "period": Duration(seconds=1)}},
    "QUOTA_EXCEEDED": {"quota": {"limit": 0, "period": key_pb2.QUOTA_PERIOD_TOTAL}},
}
FACTS: Final[dict[str, dict[str, Any]]] = {
    "WRONG_ACCESS_KEY": {"access_key": ABSENT_KEY},
    "WRONG_PROJECT": {"project_id": absent_project()},
    "WRONG_MODE": {"mode": key_pb2.KEY_MODE_LIVE},
    "IP_NOT_ALLOWED": {"client_ip": "192.0.2.1"},
    "REFERRER_NOT_ALLOWED": {"referrer": "https://shop.example.evil.test/"},
    "APP_NOT_ALLOWED": {"app": pb.App(ios_bundle_id="example.other")},
    "TARGET_NOT_ALLOWED": {"api_target": pb.ApiTarget(service="maps.example")},
    "MISSING_PERMISSION": {"permissions": ["orders:read", "orders:write"]},
}


@dataclass
class Case:
    """A key, and facts, for which certain checks fail and no other."""

    secret_key: str
    facts: dict[str, Any] = field(default_factory=dict)
    ready: Callable[[], None] = lambda: None
    """Waits until its failures are there."""


def make(root: Caller, project: str, codes: Iterable[str]) -> Case:
    """Make a case for these verdicts; the order of the steps is the one that states allow."""
    fails = set(codes)
    if "PROJECT_SUSPENDED" in fails:
        project = new_project(root)
        update_project(root, project, suspended=True)
    only = merged(RESTRICTIONS, fails)
    made = new_key(
        root,
        project,
        "RESTRICTED",
        restrictions=key_pb2.Restrictions(**only),
        **merged(LIMITS, fails),
    )
    case, access_key = Case(made.secret_key, merged(FACTS, fails)), made.key.access_key
    if "EXPIRED" in fails:
        update(root, access_key, expire_time=from_now(-HOUR))
    if "SUPERSEDED" in fails:
        overlap = OVERLAP_SECONDS if "DISABLED" in fails else 0
        rotated = rotate(root, access_key, overlap, expire_time=from_now(HOUR))
        case.ready = lambda: passed(rotated.previous.supersede_time)
    if "DISABLED" in fails:
        update(root, access_key, disabled=True)
    if "REVOKED" in fails:
        revoke(root, access_key=access_key)
    return case


def merged(table: Mapping[str, dict[str, Any]], codes: Iterable[str]) -> dict[str, Any]:
    """The table's entries for these verdicts, merged."""
    return {name: one for code in codes for name, one in table.get(code, {}).items()}


def names(numbers: Iterable[Any]) -> tuple[str, ...]:
    """The names of verdicts without their prefix."""
    return tuple(pb.Verdict.Name(one).removeprefix("VERDICT_") for one in numbers)


def judged(root: Caller, case: Case) -> tuple[str, tuple[str, ...]]:
    """The verdict on a case and its explanation; without one the verdict is the same."""
    case.ready()
    explained = verify(root, case.secret_key, explain=True, **case.facts)
    plain = verify(root, case.secret_key, **case.facts)
    assert (plain.verdict, []) == (explained.verdict, list(plain.failed))
    assert explained.valid is plain.valid is (explained.verdict == pb.VERDICT_VALID)
    return names([explained.verdict])[0], names(explained.failed)


def test_earlier_of_two_failing_checks_is_the_verdict(root: Caller, project: str) -> None:
    """Each pair of the contract's order and each alone; explain lists both in order."""
    wanted = [*((one,) for one in ORDER), *PAIRS]
    with ThreadPoolExecutor(THREADS) as pool:
        cases = list(pool.map(lambda codes: make(root, project, codes), wanted))
        found = list(pool.map(lambda case: judged(root, case), cases))
    expected = {codes: (codes[0], codes) for codes in wanted}
    assert expected == dict(zip(wanted, found, strict=True))


def test_all_failing_checks_are_explained_in_order(root: Caller, project: str) -> None:
    """Every failure of a key is listed, the first one as the verdict."""
    together = tuple(code for code in ORDER if code not in ("SUPERSEDED", "DISABLED"))
    assert (together[0], together) == judged(root, make(root, project, together))
    assert ("VALID", ()) == judged(root, make(root, project, ()))


def test_unproven_token_gets_no_explanation(root: Caller, project: str) -> None:
    """MALFORMED precedes UNKNOWN, both precede all others and list no other failure."""
    case = make(root, project, [code for code in ORDER if code != "SUPERSEDED"])
    token = case.secret_key
    damaged = token[:-1] + BASE62[(BASE62.index(token[-1]) + 1) % 62]
    for code, secret_key in zip(NOTHING_KNOWN, (damaged, with_other_secret(token)), strict=True):
        assert (code, (code,)) == judged(root, Case(secret_key, case.facts))


def test_batch_uses_the_same_precedence(root: Caller, project: str) -> None:
    """A batch with one item for each verdict is answered and explained in order."""
    cases = [make(root, project, [code]) for code in ORDER]
    for case in cases:
        case.ready()
    token = cases[0].secret_key
    cases += [Case(token + "x"), Case(with_other_secret(token)), Case(token)]
    requests = [
        pb.VerifyRequest(secret_key=case.secret_key, explain=True, **case.facts) for case in cases
    ]
    answers = root.ask(pb.BatchVerifyRequest(requests=requests)).responses
    expected = [*((code, (code,)) for code in (*ORDER, *NOTHING_KNOWN)), ("VALID", ())]
    assert expected == [(names([one.verdict])[0], names(one.failed)) for one in answers]
