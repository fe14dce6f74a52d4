"""The verifiers' evaluator: local verdicts, and questions left to the server."""

from __future__ import annotations

import gc
import tracemalloc
from dataclasses import replace
from datetime import timedelta

import pytest

from keyauthority.decision import build_verdict, denied
from keyauthority.model import (
    App,
    Change,
    ChangeType,
    Key,
    KeyKind,
    KeyMode,
    Project,
    Quota,
    QuotaPeriod,
    RateLimit,
    Restrictions,
    VerdictCode,
)
from keyauthority.requests import VerifyQuery
from keyauthority.results import WatchUpdate
from keyauthority.token import make, new_access_key, new_secret
from keyauthority.verifier.evaluator import LocalEvaluator
from tests.unit.evaluator_inputs import (
    KEY,
    LOG,
    NOW,
    PROJECT,
    TOKEN,
    ask,
    changed,
    code,
    judge,
    teach,
    watching,
)

__all__ = ["judge"]


def test_unknown_key_is_asked_at_the_server(judge: LocalEvaluator) -> None:
    """The evaluator has no record of it yet."""
    assert code(judge, ask()) is None


def test_cached_key_is_evaluated_locally(judge: LocalEvaluator) -> None:
    """After the first use, with equal results each time."""
    teach(judge)
    assert VerdictCode.VALID is code(judge, ask(permissions=("orders:read",)))
    assert VerdictCode.MISSING_PERMISSION is code(judge, ask(permissions=("orders:write",)))
    assert VerdictCode.VALID is code(judge, ask(permissions=("orders:read",)))


def test_change_applies_at_once(judge: LocalEvaluator) -> None:
    """Verdicts from before a change are not returned after it."""
    teach(judge)
    assert VerdictCode.VALID is code(judge, ask())
    watching(judge, 6, changed(replace(KEY, revoke_time=NOW, revision=6)), at=1.0)
    assert VerdictCode.REVOKED is code(judge, ask())


def test_suspended_project_applies_to_all_its_keys(judge: LocalEvaluator) -> None:
    """A change of the project changes the verdicts of its keys."""
    teach(judge)
    change = Change(
        revision=6,
        time=NOW,
        type=ChangeType.PROJECT_UPDATED,
        project_id="p",
        project=replace(PROJECT, suspended=True, revision=6),
    )
    watching(judge, 6, change, at=1.0)
    assert VerdictCode.PROJECT_SUSPENDED is code(judge, ask())


def test_limit_that_a_project_gains_is_spent_by_the_server(judge: LocalEvaluator) -> None:
    """Also for keys that were evaluated locally before."""
    teach(judge)
    assert VerdictCode.VALID is code(judge, ask())
    limited = replace(PROJECT, rate_limit=RateLimit(5, timedelta(seconds=1)), revision=6)
    change = Change(
        revision=6, time=NOW, type=ChangeType.PROJECT_UPDATED, project_id="p", project=limited
    )
    watching(judge, 6, change, at=1.0)
    assert code(judge, ask()) is None


def test_older_answer_does_not_overwrite_a_newer_change(judge: LocalEvaluator) -> None:
    """An answer in flight while the key was revoked is discarded."""
    watching(judge, 6, changed(replace(KEY, revoke_time=NOW, revision=6)), at=1.0)
    teach(judge, revision=5)
    assert code(judge, ask()) is None


def test_change_already_known_from_an_answer_is_no_step_back(judge: LocalEvaluator) -> None:
    """A record newer than the watch stays."""
    teach(judge, replace(KEY, revoke_time=NOW, revision=8), revision=8)
    watching(judge, 7, changed(replace(KEY, purpose="older", revision=7)), at=1.0)
    assert VerdictCode.REVOKED is code(judge, ask())


def test_expiry_applies_without_a_change(judge: LocalEvaluator) -> None:
    """A verdict is evaluated again once the key has reached an end."""
    teach(judge, replace(KEY, expire_time=NOW + timedelta(seconds=1.5)))
    assert VerdictCode.VALID is code(judge, ask(), at=1.4)
    assert VerdictCode.EXPIRED is code(judge, ask(), at=1.5)


def test_overlap_end_applies_without_a_change(judge: LocalEvaluator) -> None:
    """As for expiry."""
    teach(judge, replace(KEY, supersede_time=NOW + timedelta(seconds=1.5)))
    assert VerdictCode.VALID is code(judge, ask(), at=1.4)
    assert VerdictCode.SUPERSEDED is code(judge, ask(), at=1.5)


def test_forward_clock_of_the_server_ends_cached_verdicts(judge: LocalEvaluator) -> None:
    """A cached verdict is bounded by the server's clock, not the local one."""
    teach(judge, replace(KEY, expire_time=NOW + timedelta(seconds=60)))
    assert VerdictCode.VALID is code(judge, ask(), at=1.0)
    judge.apply(
        WatchUpdate(
            changes=(),
            revision=5,
            log_id=LOG,
            checkpoint=True,
            resync=False,
            server_time=NOW + timedelta(seconds=61),
            lag=timedelta(0),
        ),
        1.0,
    )
    assert VerdictCode.EXPIRED is code(judge, ask(), at=1.1)


def test_wrong_clock_of_a_server_ends_no_key_for_good(judge: LocalEvaluator) -> None:
    """Once a server with the right time is met, an end that lies ahead has not been reached."""
    teach(judge, replace(KEY, expire_time=NOW + timedelta(minutes=10)))
    watching(judge, 5, at=1_200.0, arrived=0.5)
    assert VerdictCode.EXPIRED is code(judge, ask(), at=1.0)
    judge.resume(1.0)
    watching(judge, 5, at=1.0)
    assert VerdictCode.VALID is code(judge, ask(), at=1.0)


def test_silent_watch_is_not_trusted(judge: LocalEvaluator) -> None:
    """Beyond the bound the server must be asked."""
    teach(judge)
    assert VerdictCode.VALID is code(judge, ask(), at=1.9)
    assert code(judge, ask(), at=2.0) is None


@pytest.mark.parametrize(
    ("key", "project"),
    [
        (replace(KEY, rate_limit=RateLimit(5, timedelta(seconds=1))), PROJECT),
        (replace(KEY, quota=Quota(5, QuotaPeriod.DAY)), PROJECT),
        (KEY, replace(PROJECT, rate_limit=RateLimit(5, timedelta(seconds=1)))),
    ],
)
def test_limited_key_is_asked_at_the_server(
    judge: LocalEvaluator, key: Key, project: Project
) -> None:
    """Units are spent in one place."""
    teach(judge, key, project)
    assert code(judge, ask()) is None


def test_denial_of_a_limited_key_is_local_and_spends_nothing(judge: LocalEvaluator) -> None:
    """Except with explain, where the limit may be a failing check."""
    teach(judge, replace(KEY, quota=Quota(5, QuotaPeriod.DAY)))
    denied_anyway = ask(permissions=("orders:write",))
    assert VerdictCode.MISSING_PERMISSION is code(judge, denied_anyway)
    assert code(judge, denied_anyway._replace(explain=True)) is None


def test_include_record_is_asked_at_the_server(judge: LocalEvaluator) -> None:
    """A watched change lacks parts of a record."""
    teach(judge)
    assert code(judge, ask()._replace(include_record=True)) is None


def test_newer_answer_replaces_cached_verdicts(judge: LocalEvaluator) -> None:
    """The server's answer counts before the watch delivers its change."""
    teach(judge)
    assert VerdictCode.VALID is code(judge, ask())
    teach(judge, replace(KEY, revoke_time=NOW, revision=8), revision=8)
    assert VerdictCode.REVOKED is code(judge, ask())


def test_answer_of_another_log_is_not_cached(judge: LocalEvaluator) -> None:
    """The watch covers another log and would never invalidate it."""
    asked = ask()._replace(include_record=True)
    judge.learn(asked, build_verdict(KEY, PROJECT, asked, NOW, 99, "other"))
    assert code(judge, ask()) is None
    unwatched = LocalEvaluator(10, 2.0)
    teach(unwatched)
    assert 0 == len(unwatched.cache)


def test_slower_server_clock_revives_no_verdict(judge: LocalEvaluator) -> None:
    """A failover to a late clock does not revive an expired key."""
    teach(judge, replace(KEY, expire_time=NOW + timedelta(seconds=1.2)))
    assert VerdictCode.VALID is code(judge, ask(), at=1.0)
    judge.resume(1.3)
    late = WatchUpdate(
        changes=(),
        revision=5,
        log_id=LOG,
        checkpoint=True,
        resync=False,
        server_time=NOW + timedelta(seconds=0.3),
        lag=timedelta(0),
    )
    judge.apply(late, 1.3)
    assert VerdictCode.EXPIRED is code(judge, ask(), at=1.3)


def test_distinct_addresses_use_no_memory(judge: LocalEvaluator) -> None:
    """Clients choose the facts of a call, so none of them is kept."""
    teach(judge, replace(KEY, restrictions=Restrictions(allowed_ips=("10.0.0.0/16",))))
    addresses = [f"10.0.{number // 256}.{number % 256}" for number in range(5_000)]
    asked = [ask(client_ip=address, referrer=f"https://{address}/") for address in addresses]
    assert {VerdictCode.VALID} == {code(judge, one) for one in asked[:100]}
    gc.collect()
    tracemalloc.start()
    assert {VerdictCode.VALID} == {code(judge, one) for one in asked}
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert grown < 5_000


def test_verdict_names_the_newest_revision(judge: LocalEvaluator) -> None:
    """Also if the change was of another key, and for explained verdicts."""
    teach(judge)
    asked = ask(permissions=("orders:write",))
    explained = asked._replace(explain=True)
    for revision in (5, 6, 7):
        watching(judge, revision, at=1.0)
        verdicts = [judge.evaluate(one, 1.0) for one in (explained, asked, explained)]
        expected = build_verdict(KEY, PROJECT, asked, NOW, revision, LOG)
        also = expected._replace(failed=(VerdictCode.MISSING_PERMISSION,))
        assert [also, expected, also] == verdicts


def test_changes_of_other_keys_start_no_other_count(judge: LocalEvaluator) -> None:
    """Counts between two reports are bounded by the keys, not by the changes."""
    teach(judge)
    for revision in range(6, 106):
        watching(judge, revision, at=1.0)
        assert VerdictCode.VALID is code(judge, ask())
    judge.usage._sum()
    assert 1 == len(judge.usage._counted)
    (report,) = judge.reports()
    assert [100] == [row.count for row in report.rows]


def test_unreachable_server_is_asked_once_a_second() -> None:
    """With fail_static, callers do not wait for it again and again."""
    judge = LocalEvaluator(10, 2.0, static=60.0)
    judge.resume(0.0)
    watching(judge, 5)
    teach(judge)
    assert judge.evaluate(ask(), 5.0) is None
    assert judge.fail_static_cached(ask(), 5.0) is None
    assert judge.after_failure(ask(), 6.0) is not None
    assert judge.fail_static_cached(ask(), 6.5) is not None
    assert judge.fail_static_cached(ask(), 7.1) is None
    assert judge.fail_static_cached(ask(), 7.2) is not None
    assert judge.after_failure(ask(), 60.0) is None
    teach(judge)
    assert judge.fail_static_cached(ask(), 60.1) is None


def test_slower_server_clock_revives_no_verdict_of_another_key(judge: LocalEvaluator) -> None:
    """An end that one key has reached is past for all."""
    end = NOW + timedelta(seconds=1.2)
    other = make(KeyKind.RESTRICTED, KeyMode.TEST, new_access_key(), new_secret()).reveal()
    tokens = [TOKEN, other]
    for token in tokens:
        asked = ask(token)._replace(include_record=True)
        key = replace(KEY, access_key=token[8:28], expire_time=end)
        judge.learn(asked, build_verdict(key, PROJECT, asked, NOW, 5, LOG))
        assert VerdictCode.VALID is code(judge, ask(token), at=1.0)
    assert VerdictCode.EXPIRED is code(judge, ask(), at=1.25)
    judge.resume(1.3)
    watching(judge, 5, at=1.1, arrived=1.3)
    assert VerdictCode.EXPIRED is code(judge, ask(tokens[1]), at=1.3)


def test_demanded_revision_is_asked_at_the_server(judge: LocalEvaluator) -> None:
    """at_least_revision and log_id may name a state that is not known locally."""
    teach(judge)
    assert VerdictCode.VALID is code(judge, ask()._replace(at_least_revision=5))
    assert code(judge, ask()._replace(at_least_revision=6)) is None
    assert code(judge, ask()._replace(log_id="other")) is None


@pytest.mark.parametrize(
    "asked",
    [
        ask(permissions=("*:read",)),
        ask(permissions=("a:b",) * 101),
        ask(client_ip="10.0.0.300"),
        ask(referrer="\n"),
        ask(permissions=("a:" + "b" * 600,)),
        ask(client_ip="fe80::1%" + "a" * 600),
        ask(app=App(android_sha1=":" * 600 + "a" * 40)),
        ask()._replace(cost=-1),
        ask()._replace(cost=2**63),
        ask()._replace(at_least_revision=-1),
    ],
)
def test_invalid_arguments_are_asked_at_the_server(
    judge: LocalEvaluator, asked: VerifyQuery
) -> None:
    """The server explains the fault, for known and unknown tokens."""
    teach(judge)
    assert code(judge, asked) is None
    assert code(judge, asked._replace(secret_key="none")) is None


def test_malformed_token_is_asked_only_if_it_may_be_an_imported_one(judge: LocalEvaluator) -> None:
    """Without imported keys the check digits decide, as long as the local state is fresh."""
    damaged = ask(TOKEN[:-1])
    assert code(judge, damaged) is None  # not known yet
    judge.cache.learn_imports(LOG, False)
    assert VerdictCode.MALFORMED is code(judge, damaged)
    assert code(judge, damaged, at=99.0) is None
    for text in ("", "\ud800", "\u00e9" * 20, "x" * 513):
        assert VerdictCode.MALFORMED is code(judge, ask(text), at=99.0)
    watching(judge, 6, changed(replace(KEY, revision=6, import_set="old")), at=1.0)
    assert code(judge, damaged) is None
    judge.cache.learn_imports(LOG, False)  # an answer that is older than the change
    assert code(judge, damaged) is None


def test_unknown_text_is_cached_until_a_key_is_imported(judge: LocalEvaluator) -> None:
    """Its key cannot be named in advance, so any imported key drops it."""
    asked = ask("old_token")
    judge.learn(asked, denied(VerdictCode.UNKNOWN, asked, 5, LOG))
    assert VerdictCode.UNKNOWN is code(judge, asked)
    watching(judge, 6, changed(replace(KEY, revision=6)), at=1.0)
    assert VerdictCode.UNKNOWN is code(judge, asked, at=1.0)
    watching(
        judge,
        7,
        changed(replace(KEY, access_key="KA000000000000000000", revision=7, import_set="old")),
        at=2.0,
    )
    assert code(judge, asked, at=2.0) is None


def test_unknown_token_is_cached_until_its_key_changes(judge: LocalEvaluator) -> None:
    """A key created later is found."""
    asked = ask()
    judge.learn(asked, denied(VerdictCode.UNKNOWN, asked, 5, LOG))
    assert VerdictCode.UNKNOWN is code(judge, asked)
    watching(judge, 6, changed(replace(KEY, revision=6)), at=1.0)
    assert code(judge, asked) is None
