"""Conversion of Verify's request and response, and values that are never guessed."""

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
def test_verify_request_roundtrips(presentation: VerifyQuery) -> None:
    """A Verify request survives in every field."""
    sent = VerifyRequest.FromString(convert.verify_query_to_proto(presentation).SerializeToString())

    assert convert.verify_query_from_proto(sent) == presentation


@given(texts, text_lists)
def test_common_request_is_read_like_any_other(
    secret_key: str, permissions: tuple[str, ...]
) -> None:
    """The fast path for token and permissions equals the general one."""
    sent = VerifyRequest(secret_key=secret_key, permissions=permissions)
    expected = VerifyQuery(secret_key=secret_key, facts=Facts(permissions=permissions))

    assert convert.verify_query_from_proto(sent) == expected


def test_unset_cost_is_one_and_zero_stays_zero() -> None:
    """0 checks without spending, which differs from unset."""
    assert convert.verify_query_from_proto(VerifyRequest()).cost == 1
    assert convert.verify_query_from_proto(VerifyRequest(cost=0)).cost == 0
    assert not convert.verify_query_to_proto(VerifyQuery(secret_key="x")).HasField("cost")


def test_secret_is_not_in_a_requests_repr() -> None:
    """The repr of a request may be logged."""
    assert "sk_" not in repr(VerifyQuery(secret_key="sk_test_secret"))


@given(st.lists(presentations, max_size=3).map(tuple))
def test_batch_request_roundtrips(batch: tuple[VerifyQuery, ...]) -> None:
    """The items survive in order."""
    items = convert.batch_to_proto(batch).requests
    assert batch == tuple(
        convert.batch_item_from_proto(place, item) for place, item in enumerate(items)
    )


@given(verdicts)
def test_verdict_roundtrips(verdict: Verdict) -> None:
    """The caller reads the server's verdict in every field."""
    sent = VerifyResponse.FromString(convert.verdict_to_proto(verdict).SerializeToString())

    assert convert.verdict_from_proto(sent) == verdict


@given(st.lists(right_verdicts, max_size=3))
def test_batch_verdicts_omit_labels_permissions_and_records(
    given_verdicts: list[Verdict],
) -> None:
    """All other fields are kept."""
    expected = tuple(
        one._replace(labels={}, permissions=(), key=None, project=None) for one in given_verdicts
    )

    assert convert.verdicts_from_proto(convert.verdicts_to_proto(given_verdicts)) == expected


def test_denial_of_an_unknown_token_reveals_nothing() -> None:
    """It has code, revision and log only."""
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
def test_unreadable_answer_is_neither_valid_nor_denied(proto: VerifyResponse) -> None:
    """An unknown result is never a verdict."""
    with pytest.raises(ValueError, match="verdict"):
        convert.verdict_from_proto(proto)
