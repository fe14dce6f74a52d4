"""The core of the verifiers: what it judges, and what it leaves to the server."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from keyauthority.decision import build_verdict, denied
from keyauthority.model import (
    App,
    Change,
    ChangeType,
    Key,
    Project,
    Quota,
    QuotaPeriod,
    RateLimit,
    VerdictCode,
)
from keyauthority.requests import VerifyQuery
from keyauthority.results import WatchUpdate
from keyauthority.verifier.evaluator import LocalEvaluator
from keyauthority.verifier.key_cache import ANSWERS_MIN
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


def test_first_sight_is_for_the_server(judge: LocalEvaluator) -> None:
    """What nobody has told cannot be judged."""
    assert code(judge, ask()) is None


def test_known_key_is_judged(judge: LocalEvaluator) -> None:
    """After the first sight, and twice alike."""
    teach(judge)
    assert VerdictCode.VALID is code(judge, ask(permissions=("orders:read",)))
    assert VerdictCode.MISSING_PERMISSION is code(judge, ask(permissions=("orders:write",)))
    assert VerdictCode.VALID is code(judge, ask(permissions=("orders:read",)))


def test_change_is_seen_at_once(judge: LocalEvaluator) -> None:
    """What was answered before a change is not answered after it."""
    teach(judge)
    assert VerdictCode.VALID is code(judge, ask())
    watching(judge, 6, changed(replace(KEY, revoke_time=NOW, revision=6)), at=1.0)
    assert VerdictCode.REVOKED is code(judge, ask())


def test_suspended_project_is_seen_by_all_its_keys(judge: LocalEvaluator) -> None:
    """A change of a project changes what its keys are worth."""
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


def test_older_answer_does_not_overwrite_a_newer_change(judge: LocalEvaluator) -> None:
    """An answer that was on its way while the key was revoked is thrown away."""
    watching(judge, 6, changed(replace(KEY, revoke_time=NOW, revision=6)), at=1.0)
    teach(judge, revision=5)
    assert code(judge, ask()) is None


def test_change_that_the_answer_knew_already_is_no_step_back(judge: LocalEvaluator) -> None:
    """A record that is newer than the watch stays as it is."""
    teach(judge, replace(KEY, revoke_time=NOW, revision=8), revision=8)
    watching(judge, 7, changed(replace(KEY, purpose="older", revision=7)), at=1.0)
    assert VerdictCode.REVOKED is code(judge, ask())


def test_expiry_comes_without_a_change(judge: LocalEvaluator) -> None:
    """A verdict that was given before a moment of the key's life is judged anew after it."""
    teach(judge, replace(KEY, expire_time=NOW + timedelta(seconds=1.5)))
    assert VerdictCode.VALID is code(judge, ask(), at=1.4)
    assert VerdictCode.EXPIRED is code(judge, ask(), at=1.5)


def test_end_of_an_overlap_comes_without_a_change(judge: LocalEvaluator) -> None:
    """As for expiry."""
    teach(judge, replace(KEY, supersede_time=NOW + timedelta(seconds=1.5)))
    assert VerdictCode.VALID is code(judge, ask(), at=1.4)
    assert VerdictCode.SUPERSEDED is code(judge, ask(), at=1.5)


def test_clock_that_was_set_forward_ends_what_it_ends(judge: LocalEvaluator) -> None:
    """A verdict that is remembered holds by the server's clock, not by ours."""
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


def test_silent_watch_is_not_believed(judge: LocalEvaluator) -> None:
    """Beyond the bound only the server can tell."""
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
def test_limits_are_for_the_server(judge: LocalEvaluator, key: Key, project: Project) -> None:
    """What has to be drawn is drawn in one place."""
    teach(judge, key, project)
    assert code(judge, ask()) is None


def test_denial_of_a_limited_key_draws_nothing(judge: LocalEvaluator) -> None:
    """It is judged here, unless all that fails is to be told: the limit may be one of them."""
    teach(judge, replace(KEY, quota=Quota(5, QuotaPeriod.DAY)))
    denied_anyway = ask(permissions=("orders:write",))
    assert VerdictCode.MISSING_PERMISSION is code(judge, denied_anyway)
    assert code(judge, denied_anyway._replace(explain=True)) is None


def test_records_are_for_the_server(judge: LocalEvaluator) -> None:
    """A change does not tell all of a record."""
    teach(judge)
    assert code(judge, ask()._replace(include_record=True)) is None


def test_newer_answer_ends_what_was_answered_before(judge: LocalEvaluator) -> None:
    """What the server has said of a change counts before the watch has told it."""
    teach(judge)
    assert VerdictCode.VALID is code(judge, ask())
    teach(judge, replace(KEY, revoke_time=NOW, revision=8), revision=8)
    assert VerdictCode.REVOKED is code(judge, ask())


def test_answer_of_another_log_is_not_learnt(judge: LocalEvaluator) -> None:
    """The watch tells nothing of that log: what it says would never be taken back."""
    asked = ask()._replace(include_record=True)
    judge.learn(asked, build_verdict(KEY, PROJECT, asked, NOW, 99, "other"))
    assert code(judge, ask()) is None
    unwatched = LocalEvaluator(10, 2.0)
    teach(unwatched)
    assert 0 == len(unwatched.cache)


def test_clock_that_falls_behind_brings_no_answer_back(judge: LocalEvaluator) -> None:
    """A failover to a server whose clock is late does not bring an expired key back to life."""
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


def test_questions_without_end_are_kept_within_bounds(judge: LocalEvaluator) -> None:
    """Clients choose what is asked: their addresses fill no memory."""
    teach(judge)
    for number in range(2 * ANSWERS_MIN):
        code(judge, ask(client_ip=f"10.0.{number // 256}.{number % 256}"))
    assert len(judge.cache.generation.answers) <= ANSWERS_MIN


def test_authority_that_does_not_answer_is_asked_once_a_second() -> None:
    """Told to fail static, nobody waits for it again and again."""
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


def test_newer_state_is_for_the_server(judge: LocalEvaluator) -> None:
    """at_least_revision and log_id ask for what may not be known here."""
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
def test_bad_arguments_are_for_the_server(judge: LocalEvaluator, asked: VerifyQuery) -> None:
    """It says what is wrong with them, of a known token and of none."""
    teach(judge)
    assert code(judge, asked) is None
    assert code(judge, asked._replace(secret_key="none")) is None


def test_malformed_token_is_never_asked_about(judge: LocalEvaluator) -> None:
    """Its check digits tell, however old what is known is."""
    assert VerdictCode.MALFORMED is code(judge, ask(TOKEN[:-1]), at=99.0)
    assert VerdictCode.MALFORMED is code(judge, ask("\ud800"), at=99.0)


def test_unknown_token_is_remembered_until_its_key_changes(judge: LocalEvaluator) -> None:
    """A key that is made later is found."""
    asked = ask()
    judge.learn(asked, denied(VerdictCode.UNKNOWN, asked, 5, LOG))
    assert VerdictCode.UNKNOWN is code(judge, asked)
    watching(judge, 6, changed(replace(KEY, revision=6)), at=1.0)
    assert code(judge, asked) is None
