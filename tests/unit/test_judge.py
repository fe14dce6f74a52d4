"""The core of the verifiers: what it judges, what it leaves to the server, what it never keeps."""

from __future__ import annotations

import gc
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import FunctionType, ModuleType

import pytest

from keyauthority.decision import denied, judged
from keyauthority.model import (
    Change,
    ChangeType,
    Facts,
    Key,
    KeyKind,
    KeyMode,
    Project,
    Quota,
    QuotaPeriod,
    RateLimit,
    VerdictCode,
)
from keyauthority.requests import Presentation
from keyauthority.results import WatchUpdate
from keyauthority.token import make, new_access_key, new_secret
from keyauthority.verifier.judging import Judge

NOW = datetime(2026, 5, 1, 12, 30, tzinfo=UTC)
LOG = "log"
PROJECT = Project(project_id="p", create_time=NOW, update_time=NOW, revision=1)
ACCESS_KEY = new_access_key()
TOKEN = make(KeyKind.RESTRICTED, KeyMode.TEST, ACCESS_KEY, new_secret()).reveal()
KEY = Key(
    access_key=ACCESS_KEY,
    project_id="p",
    mode=KeyMode.TEST,
    kind=KeyKind.RESTRICTED,
    permissions=("orders:read",),
    create_time=NOW,
    update_time=NOW,
    revision=2,
)
FOREVER = 1e12


def watching(judge: Judge, revision: int, *changes: Change, at: float = 0.0) -> None:
    """Tell the judge what a watch tells, `at` seconds after noon."""
    judge.take(
        WatchUpdate(
            changes=changes,
            revision=revision,
            log_id=LOG,
            checkpoint=True,
            resync=False,
            server_time=NOW + timedelta(seconds=at),
            lag=timedelta(0),
        ),
        at,
    )


def changed(key: Key) -> Change:
    """The change that made the record what it is."""
    return Change(
        revision=key.revision,
        time=NOW,
        type=ChangeType.KEY_UPDATED,
        project_id=key.project_id,
        keys=(key,),
    )


def ask(token: str = TOKEN, **facts: object) -> Presentation:
    """A question."""
    return Presentation(token, Facts(**facts))  # type: ignore[arg-type]  # the tests' own words


def teach(judge: Judge, key: Key = KEY, project: Project = PROJECT, revision: int = 5) -> None:
    """Let the judge learn what the server answers about the key."""
    asked = ask()._replace(include_record=True)
    judge.learn(asked, judged(key, project, asked, NOW, revision, LOG))


@pytest.fixture
def judge() -> Judge:
    """One that stands at revision 5 and believes for two seconds."""
    made = Judge(10, 2.0)
    made.resume(0.0)
    watching(made, 5)
    return made


def code(judge: Judge, asked: Presentation, at: float = 1.0) -> VerdictCode | None:
    """The verdict's code, None where only the server can tell."""
    verdict = judge.judge(asked, at)
    return None if verdict is None else verdict.code


def test_first_sight_is_for_the_server(judge: Judge) -> None:
    """What nobody has told cannot be judged."""
    assert code(judge, ask()) is None


def test_known_key_is_judged(judge: Judge) -> None:
    """After the first sight, and twice alike."""
    teach(judge)
    assert VerdictCode.VALID is code(judge, ask(permissions=("orders:read",)))
    assert VerdictCode.MISSING_PERMISSION is code(judge, ask(permissions=("orders:write",)))
    assert VerdictCode.VALID is code(judge, ask(permissions=("orders:read",)))


def test_change_is_seen_at_once(judge: Judge) -> None:
    """What was answered before a change is not answered after it."""
    teach(judge)
    assert VerdictCode.VALID is code(judge, ask())
    watching(judge, 6, changed(replace(KEY, revoke_time=NOW, revision=6)), at=1.0)
    assert VerdictCode.REVOKED is code(judge, ask())


def test_suspended_project_is_seen_by_all_its_keys(judge: Judge) -> None:
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


def test_older_answer_does_not_overwrite_a_newer_change(judge: Judge) -> None:
    """An answer that was on its way while the key was revoked is thrown away."""
    watching(judge, 6, changed(replace(KEY, revoke_time=NOW, revision=6)), at=1.0)
    teach(judge, revision=5)
    assert code(judge, ask()) is None


def test_change_that_the_answer_knew_already_is_no_step_back(judge: Judge) -> None:
    """A record that is newer than the watch stays as it is."""
    teach(judge, replace(KEY, revoke_time=NOW, revision=8), revision=8)
    watching(judge, 7, changed(replace(KEY, purpose="older", revision=7)), at=1.0)
    assert VerdictCode.REVOKED is code(judge, ask())


def test_expiry_comes_without_a_change(judge: Judge) -> None:
    """A verdict that was given before a moment of the key's life is judged anew after it."""
    teach(judge, replace(KEY, expire_time=NOW + timedelta(seconds=1.5)))
    assert VerdictCode.VALID is code(judge, ask(), at=1.4)
    assert VerdictCode.EXPIRED is code(judge, ask(), at=1.5)


def test_end_of_an_overlap_comes_without_a_change(judge: Judge) -> None:
    """As for expiry."""
    teach(judge, replace(KEY, supersede_time=NOW + timedelta(seconds=1.5)))
    assert VerdictCode.VALID is code(judge, ask(), at=1.4)
    assert VerdictCode.SUPERSEDED is code(judge, ask(), at=1.5)


def test_clock_that_was_set_forward_ends_what_it_ends(judge: Judge) -> None:
    """A verdict that is remembered holds by the server's clock, not by ours."""
    teach(judge, replace(KEY, expire_time=NOW + timedelta(seconds=60)))
    assert VerdictCode.VALID is code(judge, ask(), at=1.0)
    judge.take(
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


def test_silent_watch_is_not_believed(judge: Judge) -> None:
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
def test_limits_are_for_the_server(judge: Judge, key: Key, project: Project) -> None:
    """What has to be drawn is drawn in one place."""
    teach(judge, key, project)
    assert code(judge, ask()) is None


def test_newer_state_is_for_the_server(judge: Judge) -> None:
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
        ask()._replace(cost=-1),
        ask()._replace(at_least_revision=-1),
    ],
)
def test_bad_arguments_are_for_the_server(judge: Judge, asked: Presentation) -> None:
    """It says what is wrong with them, of a known token and of none."""
    teach(judge)
    assert code(judge, asked) is None
    assert code(judge, asked._replace(secret_key="none")) is None


def test_malformed_token_is_never_asked_about(judge: Judge) -> None:
    """Its check digits tell, however old what is known is."""
    assert VerdictCode.MALFORMED is code(judge, ask(TOKEN[:-1]), at=99.0)
    assert VerdictCode.MALFORMED is code(judge, ask("\ud800"), at=99.0)


def test_unknown_token_is_remembered_until_its_key_changes(judge: Judge) -> None:
    """A key that is made later is found."""
    asked = ask()
    judge.learn(asked, denied(VerdictCode.UNKNOWN, asked, 5, LOG))
    assert VerdictCode.UNKNOWN is code(judge, asked)
    watching(judge, 6, changed(replace(KEY, revision=6)), at=1.0)
    assert code(judge, asked) is None


def test_resync_forgets_everything(judge: Judge) -> None:
    """Changes may have been missed."""
    teach(judge)
    judge.take(
        WatchUpdate(
            changes=(),
            revision=0,
            log_id="",
            checkpoint=False,
            resync=True,
            server_time=NOW,
            lag=timedelta(0),
        ),
        1.0,
    )
    assert code(judge, ask(), at=1.0) is None
    assert 0 == len(judge.memory)


def test_memory_is_bounded(judge: Judge) -> None:
    """The key that was kept longest makes room."""
    teach(judge)
    for _ in range(10):
        access_key = new_access_key()
        token = make(KeyKind.RESTRICTED, KeyMode.TEST, access_key, new_secret()).reveal()
        key = replace(KEY, access_key=access_key)
        asked = ask(token)._replace(include_record=True)
        judge.learn(asked, judged(key, PROJECT, asked, NOW, 5, LOG))
    assert 10 == len(judge.memory)
    assert code(judge, ask()) is None


def test_token_is_kept_as_a_hash_only(judge: Judge) -> None:
    """Whoever reads the process's objects finds none."""
    secret = make(KeyKind.RESTRICTED, KeyMode.TEST, ACCESS_KEY, new_secret()).reveal()
    asked = ask(secret)._replace(include_record=True)
    judge.learn(asked, judged(KEY, PROJECT, asked, NOW, 5, LOG))
    assert VerdictCode.VALID is code(judge, ask(secret))
    reached: list[object] = [judge]
    seen: set[int] = set()
    while reached:
        one = reached.pop()
        if id(one) in seen or isinstance(one, type | ModuleType | FunctionType):
            continue
        seen.add(id(one))
        assert one != secret
        reached.extend(gc.get_referents(one))


def test_verifications_are_counted_by_verdict_and_taken_once(judge: Judge) -> None:
    """What was judged is reported, what the server judged is not."""
    teach(judge)
    for _ in range(3):
        code(judge, ask()._replace(cost=2))
    code(judge, ask(permissions=("orders:write",)))
    code(judge, ask(TOKEN[:-1]))
    (report,) = judge.reports()
    assert [(VerdictCode.MISSING_PERMISSION, 1, 0), (VerdictCode.VALID, 3, 6)] == sorted(
        (row.verdict, row.count, row.cost) for row in report.rows
    )
    judge.tally.kept.clear()
    assert 0 == len(judge.reports())


def test_threads_lose_no_count(judge: Judge) -> None:
    """Eight threads count as one would."""
    teach(judge)

    def verify() -> None:
        for _ in range(500):
            code(judge, ask())

    threads = [threading.Thread(target=verify) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (report,) = judge.reports()
    assert [4_000] == [row.count for row in report.rows]
