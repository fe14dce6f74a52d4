"""Arguments of the wrong type: the error names the argument and the remedy."""

from __future__ import annotations

import re
from typing import Any, cast

import pytest

from keyauthority import AsyncClient, AsyncVerifier, Client, Verifier
from keyauthority.model import Restrictions
from tests.client.conftest import Call
from tests.client.records import CREATED_KEY, PROJECT, PROJECT_ID


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"ttl": 3600}, "ttl is timedelta or None, not int"),
        ({"expire_time": "2030-01-01"}, "expire_time is datetime or None, not str"),
        ({"rate_limit": 100}, "rate_limit is RateLimit or None, not int"),
        ({"project_id": PROJECT}, "project_id is str, not Project"),
        ({"restrictions": ["10.0.0.0/8"]}, "restrictions is Restrictions, not list"),
        (
            {"restrictions": Restrictions(allowed_ips=cast("Any", "10.0.0.0/8"))},
            "restrictions.allowed_ips is a list of strings, not a string",
        ),
    ],
)
def test_argument_of_the_wrong_type_is_named(
    call: Call, arguments: dict[str, Any], text: str
) -> None:
    """Protobuf's own message names neither the argument nor the type that it should have."""
    given = {"project_id": PROJECT_ID, "mode": "test", "kind": "secret"} | arguments
    with pytest.raises(TypeError, match=f"^{re.escape(text)}$"):
        call("create_key", **given)


@pytest.mark.parametrize("token", [None, CREATED_KEY])
def test_token_that_is_no_text_is_a_type_error(call: Call, token: object) -> None:
    """Such as the answer of `create_key` in place of its `secret_key`."""
    with pytest.raises(TypeError, match="a secret key is a string, not"):
        call("verify", token)


@pytest.mark.parametrize("option", ["max_staleness", "fail_static", "report_interval"])
def test_verifier_names_an_option_that_is_not_a_span(option: str) -> None:
    """A number would leave the unit open."""
    with pytest.raises(TypeError, match=f"^{option} is a timedelta, not int$"):
        Verifier(Client(), **cast("Any", {option: 2}))


def test_verifier_refuses_the_client_of_the_other_kind() -> None:
    """Otherwise each verification would fail, with an error of Python about `await`."""
    blocking, asynchronous = Client(), AsyncClient()
    with pytest.raises(TypeError, match=r"^Verifier takes a Client, not AsyncClient$"):
        Verifier(cast("Any", asynchronous))
    with pytest.raises(TypeError, match=r"^AsyncVerifier takes an AsyncClient, not Client$"):
        AsyncVerifier(cast("Any", blocking))
    with pytest.raises(TypeError, match=r"^Verifier takes a Client, not str$"):
        Verifier(cast("Any", "127.0.0.1:50051"))
