"""Selection of the key among the headers of a request."""

from __future__ import annotations

import base64

import pytest

from keyauthority.http.credentials import check_header, read_key
from keyauthority.http.rejection import MALFORMED, NO_KEY, SEVERAL_KEYS, Rejection

KEY = "rk_live_KAZZZZZZZZZZZZZZZZZZ_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf3oUCG6"
OTHER = "sk_test_KA000000000000000000_00000000000000000000000000000000000000000000jmIqF"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJ1c2VyIn0.c2lnbmF0dXJl"
IMPORTED = "live_0f1e2d3c4b5a"


def basic(text: str) -> str:
    """An Authorization header with these credentials."""
    return f"Basic {base64.b64encode(text.encode()).decode()}"


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", f"Bearer {KEY}")],
        [("authorization", f"bearer  {KEY} ")],
        [("authorization", basic(f"{KEY}:"))],
        [("x-api-key", KEY)],
        [("x-api-key", f"\t{KEY}\r\n")],
        [("x-auth-token", KEY), ("accept", "*/*")],
        [("x-api-key", KEY), ("authorization", f"Bearer {KEY}")],
        [("x-api-key", f"{KEY}, {KEY}")],
        [("x-api-key", KEY), ("authorization", f"Bearer {JWT}")],
        [("x-api-key", KEY), ("authorization", basic("user:password"))],
        [("x-api-key", KEY), ("authorization", 'Digest username="a", realm="b"')],
        [("x-api-key", KEY), ("x-auth-token", "session")],
        [("x-api-key", ""), ("authorization", f"Bearer {KEY}")],
        [("x-api-key", " , "), ("authorization", f"Bearer {KEY}")],
        [("authorization", f"Bearer {JWT}"), ("authorization", f"Bearer {KEY}")],
        [("authorization", f"Bearer {JWT},Bearer {KEY}")],
    ],
)
def test_single_key_is_found_among_other_headers(headers: list[tuple[str, str]]) -> None:
    """Only possible keys count, and repeating one is allowed."""
    assert KEY == read_key(headers)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], NO_KEY),
        ([("x-api-key", " ")], NO_KEY),
        ([("authorization", "Bearer")], NO_KEY),
        ([("authorization", f"Digest {KEY}")], NO_KEY),
        ([("authorization", KEY)], NO_KEY),
        ([("authorization", basic(f"{KEY}:password"))], MALFORMED),
        ([("authorization", basic(KEY))], MALFORMED),
        ([("authorization", "Basic !")], MALFORMED),
        ([("authorization", basic(":"))], MALFORMED),
        ([("authorization", f"Bearer {JWT}"), ("x-api-key", f"{JWT}x")], MALFORMED),
        ([("authorization", f"Bearer {KEY}"), ("x-api-key", OTHER)], SEVERAL_KEYS),
        ([("x-api-key", KEY), ("x-api-key", OTHER)], SEVERAL_KEYS),
        ([("x-api-key", f"{KEY},{OTHER}")], SEVERAL_KEYS),
        ([("authorization", f"Bearer {KEY}, Bearer {OTHER}")], SEVERAL_KEYS),
        ([("authorization", f"Bearer {KEY}, {OTHER}")], SEVERAL_KEYS),
        ([("authorization", basic(f"{KEY}:")), ("x-auth-token", OTHER)], SEVERAL_KEYS),
        ([("x-api-key", "one"), ("x-auth-token", "two")], SEVERAL_KEYS),
    ],
)
def test_request_without_exactly_one_key_is_rejected(
    headers: list[tuple[str, str]], expected: Rejection
) -> None:
    """Of two different keys the intended one is unknown."""
    assert expected == read_key(headers)


@pytest.mark.parametrize(
    "headers",
    [
        [("x-api-key", IMPORTED)],
        [("x-api-key", IMPORTED), ("authorization", f"Bearer {JWT}")],
        [("x-api-key", IMPORTED), ("authorization", basic("user:password"))],
    ],
)
def test_value_of_another_form_is_left_to_the_authority(headers: list[tuple[str, str]]) -> None:
    """It may be a foreign key format; user credentials are excluded."""
    assert IMPORTED == read_key(headers)


def test_named_header_is_the_only_one_read() -> None:
    """Other headers may hold keys for other services."""
    both = [("authorization", f"Bearer {OTHER}"), ("x-shop-key", KEY)]
    assert KEY == read_key(both, "x-shop-key")
    assert NO_KEY == read_key(both, "x-other-key")
    assert OTHER == read_key(both, "authorization")


def test_header_name_is_validated() -> None:
    """A name with a space would match no request."""
    assert check_header("X-Shop-Key") == "x-shop-key"
    for name in ("", "x shop", "x-shop:", "schlüssel"):
        with pytest.raises(ValueError, match="name of an HTTP header"):
            check_header(name)
