"""The verifiers' key cache: contents, bounds and usage counts."""

from __future__ import annotations

import gc
import threading
from dataclasses import replace
from datetime import timedelta
from types import FunctionType, ModuleType

import pytest

from keyauthority.decision import build_verdict
from keyauthority.model import (
    CANARY_LABEL,
    Key,
    KeyKind,
    KeyMode,
    VerdictCode,
)
from keyauthority.requests import KeyObservation
from keyauthority.results import WatchUpdate
from keyauthority.token import AccessKey, make, new_access_key, new_secret
from keyauthority.verifier import usage_buffer
from keyauthority.verifier.evaluator import LocalEvaluator
from keyauthority.verifier.usage_buffer import BATCHES_MAX
from keyauthority.weight import weight_of
from tests.unit.evaluator_inputs import (
    ACCESS_KEY,
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


def test_resync_drops_everything(judge: LocalEvaluator) -> None:
    """Changes may have been missed."""
    teach(judge)
    judge.apply(
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
    assert 0 == len(judge.cache)


def test_key_cache_is_bounded(judge: LocalEvaluator) -> None:
    """The oldest key is evicted."""
    teach(judge)
    for _ in range(10):
        learn(judge, replace(KEY, access_key=new_access_key()))
    assert 10 == len(judge.cache)
    assert code(judge, ask()) is None


def test_key_with_long_lists_counts_as_several(judge: LocalEvaluator) -> None:
    """Else the keys of one tenant could fill the memory of a gateway: 1.5 MB each."""
    long = tuple(f"{'a' * 200}{number}:read" for number in range(10))  # weighs 3 of 10
    names = [new_access_key() for _ in range(6)]
    for name in names:
        learn(judge, replace(KEY, access_key=name, permissions=long))
    assert 10 // weight_of(replace(KEY, permissions=long)) == len(judge.cache) < 6
    grown = replace(KEY, access_key=names[-1], permissions=long * 2, revision=6)
    judge.cache.apply([changed(grown)], 6, LOG)
    assert 10 // weight_of(grown) == len(judge.cache)
    for _ in range(10):
        learn(judge, replace(KEY, access_key=new_access_key(), revision=6), revision=6)
    assert 10 == len(judge.cache)


def learn(judge: LocalEvaluator, key: Key, revision: int = 5) -> None:
    """Have a verdict of the server on a token of the key."""
    token = make(KeyKind.RESTRICTED, KeyMode.TEST, AccessKey(key.access_key), new_secret()).reveal()
    asked = ask(token)._replace(include_record=True)
    judge.learn(asked, build_verdict(key, PROJECT, asked, NOW, revision, LOG))


def test_token_is_cached_as_a_hash_only(judge: LocalEvaluator) -> None:
    """No object of the process holds the token."""
    secret = make(KeyKind.RESTRICTED, KeyMode.TEST, ACCESS_KEY, new_secret()).reveal()
    asked = ask(secret)._replace(include_record=True)
    judge.learn(asked, build_verdict(KEY, PROJECT, asked, NOW, 5, LOG))
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


def test_local_verifications_are_counted_by_verdict_once(judge: LocalEvaluator) -> None:
    """Local verdicts are reported, the server's own are not."""
    teach(judge)
    for _ in range(3):
        code(judge, ask()._replace(cost=2))
    code(judge, ask(permissions=("orders:write",)))
    code(judge, ask(TOKEN[:-1]))
    (report,) = judge.reports()
    assert [(VerdictCode.MISSING_PERMISSION, 1, 0), (VerdictCode.VALID, 3, 6)] == sorted(
        (row.verdict, row.count, row.cost) for row in report.rows
    )
    judge.usage.pending.clear()
    assert 0 == len(judge.reports())


def test_threads_lose_no_count(judge: LocalEvaluator) -> None:
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


def test_unsent_reports_are_bounded(judge: LocalEvaluator) -> None:
    """Excess counts are dropped, counted and logged once."""
    teach(judge)
    for _ in range(BATCHES_MAX + 2):
        code(judge, ask())
        judge.reports()
    assert BATCHES_MAX == len(judge.usage.pending)
    assert [2, 0] == [judge.usage.lost(), judge.usage.lost()]


def test_reports_of_many_keys_are_all_sent(
    judge: LocalEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bound on unsent reports drops none before they are due."""
    monkeypatch.setattr(usage_buffer, "ROWS_MAX", 1)
    monkeypatch.setattr(usage_buffer, "BATCHES_MAX", 2)
    teach(judge)
    needed = ("orders:read", "orders:write")
    for permission in needed:
        code(judge, ask(permissions=(permission,)))
    code(judge, ask(project_id="other"))
    assert 3 == len(judge.reports())
    assert 0 == judge.usage.lost()


def test_report_with_long_permissions_fits_into_a_message(
    judge: LocalEvaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The observations of a thousand keys can have 50 MB; the counts would be lost with them."""
    monkeypatch.setattr(usage_buffer, "CHARACTERS_MAX", 0)
    teach(judge)
    code(judge, ask(permissions=("orders:read",)))
    code(judge, ask(project_id="other"))
    reports = judge.reports()
    assert [(1, 1), (1, 0)] == [(len(one.rows), len(one.observations)) for one in reports]


def test_permissions_and_addresses_are_reported_with_the_counts(judge: LocalEvaluator) -> None:
    """The permissions that were made use of, once; the address only if an advisory needs it."""
    teach(judge)
    code(judge, ask(permissions=("orders:read",), client_ip="192.0.2.1"))
    (report,) = judge.reports()
    (one,) = report.observations
    assert KeyObservation(access_key=ACCESS_KEY, permissions=("orders:read",)) == one
    judge.reports().clear()
    code(judge, ask())
    assert () == judge.reports().pop().observations
    for revision, key in (
        (6, replace(KEY, labels={CANARY_LABEL: ""}, revision=6)),
        (7, replace(KEY, revoke_time=NOW, revision=7)),
    ):
        watching(judge, revision, changed(key))
        code(judge, ask(client_ip="192.0.2.2"))
        code(judge, ask(client_ip="192.0.2.1"))
        (one,) = judge.reports().pop().observations
        assert KeyObservation(access_key=ACCESS_KEY, last_peer="192.0.2.1") == one


def test_counts_from_before_a_reset_keep_their_time(judge: LocalEvaluator) -> None:
    """The server's log is another one, but its time is not."""
    teach(judge)
    code(judge, ask())
    judge.forget()
    (report,) = judge.reports()
    assert [NOW + timedelta(seconds=1)] == [row.last_used_time for row in report.rows]
