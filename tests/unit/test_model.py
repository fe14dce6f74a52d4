"""Records: immutability and version names."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import timedelta

import pytest

from keyauthority import convert
from keyauthority.model import Labels, Verdict, VerdictCode
from tests.client.records import KEY, PROJECT

LABELS = {"team": "shop"}


@pytest.mark.parametrize(
    "change",
    [
        lambda labels: labels.update(a="b"),
        lambda labels: labels.__setitem__("a", "b"),
        lambda labels: labels.__delitem__("team"),
        lambda labels: labels.__ior__({"a": "b"}),
        lambda labels: labels.setdefault("a", "b"),
        lambda labels: labels.pop("team"),
        lambda labels: labels.popitem(),
        lambda labels: labels.clear(),
    ],
)
def test_labels_of_a_result_are_immutable(change: Callable[[Labels], object]) -> None:
    """Verdicts are shared by callers, and keys by verdicts."""
    verdict = convert.verdict_from_proto(
        convert.verdict_to_proto(Verdict(VerdictCode.VALID, labels=LABELS))
    )
    key = convert.key_from_proto(convert.key_to_proto(replace(KEY, labels=LABELS)))
    project = convert.project_from_proto(convert.project_to_proto(replace(PROJECT, labels=LABELS)))
    for record in (verdict, key, project):
        assert isinstance(record.labels, Labels)
        with pytest.raises(TypeError, match="labels of a record are immutable"):
            change(record.labels)
        assert LABELS == record.labels


def test_labels_behave_like_a_dict() -> None:
    """In comparison, copy, pickle, JSON and dataclass conversion."""
    labels = Labels(LABELS)
    for same in (copy.copy(labels), copy.deepcopy(labels), pickle.loads(pickle.dumps(labels))):  # noqa: S301 - our own
        assert (LABELS, Labels) == (same, type(same))
    assert {"team": "shop", "a": "b"} == labels | {"a": "b"}
    assert LABELS == json.loads(json.dumps(labels))
    assert LABELS == asdict(replace(KEY, labels=labels))["labels"]


def test_etag_is_made_of_revision_and_time() -> None:
    """Revisions repeat after a restore; etags must not."""
    for record in (KEY, PROJECT):
        later = record.update_time + timedelta(microseconds=1)
        assert len({record.etag, replace(record, update_time=later).etag}) == 2
        assert record.etag != replace(record, revision=record.revision + 1).etag
        assert record.etag == replace(record).etag


def test_only_a_valid_verdict_is_true() -> None:
    """`if authority.verify(token):` admits no other token."""
    assert [VerdictCode.VALID] == [code for code in VerdictCode if Verdict(code)]
