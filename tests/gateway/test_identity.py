"""Headers of the identity, and the names that must not reach the upstream."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from keyauthority.gateway.identity import (
    NAMES,
    REVISION,
    identity,
    identity_headers,
    names_to_remove,
)
from keyauthority.model import KeyKind, KeyMode, Verdict, VerdictCode

KEY = "sk_test_KEY"
BEARER = ("authorization", f"Bearer {KEY}")


def spellings(name: str, separators: str = "-_.") -> Iterator[str]:
    """Yield every spelling of a header name with other separators, the canonical one first."""
    first, dash, rest = name.partition("-")
    for separator in separators if dash else ("",):
        for ending in spellings(rest, separators) if dash else ("",):
            yield f"{first}{separator}{ending}"


FORGED = [name for canonical in NAMES for name in list(spellings(canonical))[1:]]
"""Every other spelling of the identity headers."""


def test_all_identity_headers_are_set() -> None:
    """In words of lower case; a grant list only for a restricted key."""
    verdict = Verdict(
        VerdictCode.VALID,
        access_key="KA1",
        project_id="p",
        mode=KeyMode.LIVE,
        kind=KeyKind.RESTRICTED,
        permissions=("orders:read", "*:list"),
        revision=7,
    )
    names, texts = zip(*identity_headers(identity(verdict)), strict=True)
    assert (*names, REVISION) == NAMES
    assert ("KA1", "p", "live", "restricted", "orders:read,*:list") == texts
    secret = dict(identity_headers(identity(verdict._replace(kind=KeyKind.SECRET))))
    assert "" == secret["x-keyauthority-permissions"]
    unknown = identity_headers(identity(Verdict(VerdictCode.VALID)))
    assert [""] * 5 == [text for _, text in unknown]


def test_every_other_spelling_of_an_identity_header_is_removed() -> None:
    """CGI, WSGI and others read them as the same header; the canonical names are overwritten."""
    assert 84 == len(FORGED)
    others = ["x~keyauthority~mode", "x-keyauthority-admin", "x_keyauthority_"]
    headers = [BEARER, *((name, "forged") for name in [*FORGED, *NAMES, *others])]
    removed = names_to_remove(headers, KEY, keep_credential=True)
    assert sorted([*FORGED, *others]) == list(removed)


@pytest.mark.parametrize(
    "header",
    [
        BEARER,
        ("authorization", f"Bearer {KEY}, Bearer other"),
        ("authorization", "Basic c2tfdGVzdF9LRVk6"),
        ("x-api-key", KEY),
        ("x-auth-token", f"{KEY}, {KEY}"),
        ("x_api_key", "whatever it holds"),
        ("x.auth-token", "whatever it holds"),
    ],
)
def test_credential_is_removed_unless_it_is_kept(header: tuple[str, str]) -> None:
    """With every other spelling of its header, since the upstream may read that."""
    headers = [header, ("accept", "*/*"), ("x-api", KEY)]
    assert (header[0],) == names_to_remove(headers, KEY, keep_credential=False)
    assert () == names_to_remove(headers, KEY, keep_credential=True)


def test_token_of_a_user_beside_the_key_is_left_alone() -> None:
    """It is not the credential that the gateway has checked."""
    headers = [("authorization", "Bearer eyJhbGciOiJIUzI1NiJ9.e30.c2ln"), ("x-api-key", KEY)]
    assert ("x-api-key",) == names_to_remove(headers, KEY, keep_credential=False)
