"""Inputs for tests of the verifiers' core, as a watch and a server would deliver them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from keyauthority.decision import build_verdict
from keyauthority.model import (
    Change,
    ChangeType,
    Facts,
    Key,
    KeyKind,
    KeyMode,
    Project,
    VerdictCode,
)
from keyauthority.requests import VerifyQuery
from keyauthority.results import WatchUpdate
from keyauthority.token import make, new_access_key, new_secret
from keyauthority.verifier.evaluator import LocalEvaluator

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


def watching(
    judge: LocalEvaluator,
    revision: int,
    *changes: Change,
    at: float = 0.0,
    arrived: float | None = None,
) -> None:
    """Apply an update that was sent `at` seconds after NOW, and arrived then or as given."""
    judge.apply(
        WatchUpdate(
            changes=changes,
            revision=revision,
            log_id=LOG,
            checkpoint=True,
            resync=False,
            server_time=NOW + timedelta(seconds=at),
            lag=timedelta(0),
        ),
        at if arrived is None else arrived,
    )


def changed(key: Key) -> Change:
    """The change that made the record's present state."""
    return Change(
        revision=key.revision,
        time=NOW,
        type=ChangeType.KEY_UPDATED,
        project_id=key.project_id,
        keys=(key,),
    )


def ask(token: str = TOKEN, **facts: object) -> VerifyQuery:
    """A question."""
    return VerifyQuery(token, Facts(**facts))  # type: ignore[arg-type]  # the tests' own words


def teach(
    judge: LocalEvaluator, key: Key = KEY, project: Project = PROJECT, revision: int = 5
) -> None:
    """Deliver the server's answer about the key to the evaluator."""
    asked = ask()._replace(include_record=True)
    judge.learn(asked, build_verdict(key, project, asked, NOW, revision, LOG))


@pytest.fixture
def judge() -> LocalEvaluator:
    """One that stands at revision 5 and believes for two seconds."""
    made = LocalEvaluator(10, 2.0)
    made.resume(0.0)
    watching(made, 5)
    return made


def code(judge: LocalEvaluator, asked: VerifyQuery, at: float = 1.0) -> VerdictCode | None:
    """The verdict's code, None where only the server can tell."""
    verdict = judge.evaluate(asked, at)
    return None if verdict is None else verdict.code
