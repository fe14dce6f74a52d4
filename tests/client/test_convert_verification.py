"""Verify's request and answer there and back, and what is never guessed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyauthority import convert
from keyauthority.model import Facts, Verdict, VerdictCode
from keyauthority.requests import VerifyQuery
from keyauthority.v1 import key_authority_service_pb2 as service_pb2
from keyauthority.v1.key_authority_service_pb2 import VerifyRequest, VerifyResponse
from tests.client.strategies import presentations, right_verdicts, text_lists, texts, verdicts


@given(presentations)
def test_a_presentation_there_and_back_is_the_same(presentation: VerifyQuery) -> None:
    """What is asked of Verify arrives whole."""
    sent = VerifyRequest.FromString(convert.verify_query_to_proto(presentation).SerializeToString())

    assert convert.verify_query_from_proto(sent) == presentation


@given(texts, text_lists)
def test_the_common_request_is_read_as_any_other(
    secret_key: str, permissions: tuple[str, ...]
) -> None:
    """The short way for a token and permissions gives what the long way gives."""
    sent = VerifyRequest(secret_key=secret_key, permissions=permissions)
    expected = VerifyQuery(secret_key=secret_key, facts=Facts(permissions=permissions))

    assert convert.verify_query_from_proto(sent) == expected


def test_a_cost_that_is_unset_is_one_and_zero_stays_zero() -> None:
    """0 checks without drawing, which is not the same as nothing said."""
    assert convert.verify_query_from_proto(VerifyRequest()).cost == 1
    assert convert.verify_query_from_proto(VerifyRequest(cost=0)).cost == 0
    assert not convert.verify_query_to_proto(VerifyQuery(secret_key="x")).HasField("cost")


def test_a_secret_is_not_in_the_text_of_a_presentation() -> None:
    """The repr of a request may be logged."""
    assert "sk_" not in repr(VerifyQuery(secret_key="sk_test_secret"))


@given(st.lists(presentations, max_size=3).map(tuple))
def test_a_batch_there_and_back_is_the_same(batch: tuple[VerifyQuery, ...]) -> None:
    """The requests of a batch arrive whole and in order."""
    items = convert.batch_to_proto(batch).requests
    assert batch == tuple(
        convert.batch_item_from_proto(place, item) for place, item in enumerate(items)
    )


@given(verdicts)
def test_a_verdict_there_and_back_is_the_same(verdict: Verdict) -> None:
    """What the server judged is what the caller reads."""
    sent = VerifyResponse.FromString(convert.verdict_to_proto(verdict).SerializeToString())

    assert convert.verdict_from_proto(sent) == verdict


@given(st.lists(right_verdicts, max_size=3))
def test_the_verdicts_of_a_batch_have_no_labels_permissions_and_records(
    given_verdicts: list[Verdict],
) -> None:
    """A batch's answer is brief, and else the same."""
    expected = tuple(
        one._replace(labels={}, permissions=(), key=None, project=None) for one in given_verdicts
    )

    assert convert.verdicts_from_proto(convert.verdicts_to_proto(given_verdicts)) == expected


def test_a_denial_of_an_unknown_token_says_nothing_of_a_key() -> None:
    """UNKNOWN has one answer: code, revision, log, and not a byte more."""
    sent = convert.verdict_to_proto(Verdict(code=VerdictCode.UNKNOWN, revision=7, log_id="log"))

    assert {field.name for field, _ in sent.ListFields()} == {"verdict", "revision", "log_id"}


@pytest.mark.parametrize(
    "proto",
    [
        VerifyResponse(),
        VerifyResponse(verdict=99),  # type: ignore[arg-type]  # a newer server's
        VerifyResponse(valid=True),
        VerifyResponse(valid=True, verdict=service_pb2.VERDICT_REVOKED),
        VerifyResponse(valid=False, verdict=service_pb2.VERDICT_VALID),
    ],
)
def test_an_answer_that_cannot_be_read_is_neither_valid_nor_denied(proto: VerifyResponse) -> None:
    """Cannot tell is never a verdict."""
    with pytest.raises(ValueError, match="verdict"):
        convert.verdict_from_proto(proto)
