"""Where the key and the address are taken from, and what is believed of them."""

from __future__ import annotations

from datetime import timedelta

import pytest

from keyauthority.clock import SystemClock
from keyauthority.errors import Internal, KeyAuthorityError, Unavailable
from keyauthority.middleware.admission import (
    NO_KEY,
    SEVERAL_KEYS,
    Denial,
    Denied,
    address_of,
    denied,
    failed,
    key_of,
    proxies,
    referrer_of,
)
from keyauthority.model import Standing, Verdict, VerdictCode


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ([("authorization", "Bearer KEY")], "KEY"),
        ([("authorization", "bearer  KEY ")], "KEY"),
        ([("x-api-key", "KEY")], "KEY"),
        ([("x-auth-token", "KEY"), ("accept", "*/*")], "KEY"),
        ([], NO_KEY),
        ([("authorization", "Basic S0VZ")], NO_KEY),
        ([("authorization", "Bearer A"), ("x-api-key", "A")], SEVERAL_KEYS),
        ([("x-api-key", "A"), ("x-api-key", "B")], SEVERAL_KEYS),
    ],
)
def test_key_is_taken_from_one_header(headers: list[tuple[str, str]], key: str | Denied) -> None:
    """Two credentials are none: nobody can say which of them was meant."""
    assert key == key_of(headers)


@pytest.mark.parametrize(
    ("forwarded", "proxies", "address"),
    [
        ([], 0, "10.0.0.1"),
        (["6.6.6.6"], 0, "10.0.0.1"),
        (["192.0.2.7"], 1, "192.0.2.7"),
        (["6.6.6.6, 192.0.2.7"], 1, "192.0.2.7"),
        (["6.6.6.6", "192.0.2.7, 10.0.0.9"], 2, "192.0.2.7"),
        ([], 1, ""),
        (["192.0.2.7"], 2, ""),
        (["192.0.2.7:4711"], 1, "192.0.2.7"),
        (["[2001:db8::1]:4711"], 1, "2001:db8::1"),
        (["2001:db8::1"], 1, "2001:db8::1"),
        (["unknown"], 1, ""),
    ],
)
def test_address_is_what_the_outermost_trusted_proxy_has_written(
    forwarded: list[str], proxies: int, address: str
) -> None:
    """What the client itself has sent in the header is never believed."""
    assert address == address_of("10.0.0.1", forwarded, proxies)


def test_fewer_proxies_than_none_are_refused() -> None:
    """Counted from the other end, the header would be the client's own words."""
    assert 0 == proxies(0)
    with pytest.raises(ValueError, match="trusted_proxies"):
        proxies(-1)


def test_peer_that_has_no_address_is_unknown() -> None:
    """A unix socket, or a test client, is nobody's address."""
    assert "" == address_of("testclient", [], 0)


def test_referrer_that_says_nothing_is_left_out() -> None:
    """It refuses no key that has nothing to do with referrers."""
    assert "https://shop.example/" == referrer_of("https://shop.example/")
    assert not referrer_of("a" * 5_000)
    assert not referrer_of("a\nb")


def test_every_denial_has_its_place() -> None:
    """What is wrong with the key, what it may not do, and when to come back."""
    assert denied(Verdict(VerdictCode.VALID)) is None
    expected = {
        Denial.UNAUTHENTICATED: "malformed unknown wrong_access_key revoked superseded expired "
        "disabled",
        Denial.FORBIDDEN: "project_suspended wrong_project wrong_mode ip_not_allowed "
        "referrer_not_allowed app_not_allowed target_not_allowed missing_permission",
        Denial.LIMITED: "rate_limited quota_exceeded",
    }
    actual = {
        denial: " ".join(
            code
            for code in VerdictCode
            if (found := denied(Verdict(code))) is not None and found.denial is denial
        )
        for denial in expected
    }
    assert expected == actual


def test_limited_call_is_told_when_to_come_back() -> None:
    """When the last of the limits that are used up begins anew; a limit of a life never does."""
    soon, later = (SystemClock().now() + timedelta(seconds=span) for span in (30, 90))
    limited = Verdict(
        VerdictCode.RATE_LIMITED,
        key_standing=Standing(5, 0, soon),
        project_standing=Standing(5, 0, later),
        quota_standing=Standing(5, 1, None),
    )
    found = denied(limited)
    assert found is not None
    assert found.retry_after in range(85, 92)
    never = denied(limited._replace(quota_standing=Standing(5, 0, None)))
    assert never is not None
    assert never.retry_after is None


def test_authority_that_cannot_tell_is_no_denial() -> None:
    """The caller may come back; a fault of the service itself stays one."""
    assert Denied(Denial.CANNOT_TELL, "cannot tell", 1) == failed(Unavailable("down"))
    with pytest.raises(KeyAuthorityError):
        failed(Internal("a fault"))
