"""Admission of a request: its facts, one verdict for all guards, and the rejections."""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import Any, cast

import pytest

from keyauthority.aio import AsyncClient
from keyauthority.client import Client
from keyauthority.clock import SystemClock
from keyauthority.errors import PermissionDenied, Unavailable
from keyauthority.http.client_address import check_proxies, client_ip
from keyauthority.http.referrer import read_referrer
from keyauthority.http.rejection import (
    MISSING_PERMISSION,
    NO_KEY,
    Rejection,
    RejectionKind,
    reject,
    reject_failure,
)
from keyauthority.middleware import http
from keyauthority.middleware.admission import (
    MISSING_VERIFIER,
    Admission,
    Guard,
    Request,
    admit,
    admit_async,
    check_verifier,
    current_verifier,
)
from keyauthority.model import KeyKind, Standing, Verdict, VerdictCode
from keyauthority.restrictions import addresses
from keyauthority.verifier import AsyncVerifier, Verifier

KEY = "rk_live_KAZZZZZZZZZZZZZZZZZZ_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf3oUCG6"
OTHER = "sk_test_KA000000000000000000_00000000000000000000000000000000000000000000jmIqF"
NETWORKS = ["10.0.0.0/24", "2001:db8::/64"]


@pytest.mark.parametrize(
    ("forwarded", "trusted", "address"),
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
def test_address_is_taken_from_the_outermost_trusted_proxy(
    forwarded: list[str], trusted: int, address: str
) -> None:
    """Header values sent by the client itself are never trusted."""
    assert address == client_ip("10.0.0.1", forwarded, trusted)


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("198.51.100.1", ["10.1.2.3"], "198.51.100.1"),
        ("10.0.0.1", ["192.0.2.7"], "192.0.2.7"),
        ("10.0.0.1", ["6.6.6.6, 192.0.2.7, 10.0.0.9"], "192.0.2.7"),
        ("10.0.0.1", ["6.6.6.6", "192.0.2.7"], "192.0.2.7"),
        ("::ffff:10.0.0.1", ["192.0.2.7"], "192.0.2.7"),
        ("2001:db8::1", ["[2001:db8:1::7]:4711, 10.0.0.9:80"], "2001:db8:1::7"),
        ("10.0.0.1", ["10.0.0.7"], "10.0.0.7"),
        ("10.0.0.1", ["192.0.2.7, unknown"], ""),
        ("10.0.0.1", [], ""),
        ("", ["192.0.2.7"], ""),
    ],
)
def test_address_header_is_trusted_from_named_proxies_only(
    peer: str, forwarded: list[str], address: str
) -> None:
    """A client that connects directly gains nothing by it."""
    assert address == client_ip(peer, forwarded, check_proxies(NETWORKS))


def test_many_forwarded_entries_parse_the_setting_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client chooses their number: 64 KB of them took seconds."""
    parsed = []

    def parse_block(text: str) -> addresses.Block:
        parsed.append(text)
        return original(text)

    original = addresses.parse_block
    monkeypatch.setattr(addresses, "parse_block", parse_block)
    trusted = ("198.51.100.0/24", "2001:db8:aa::/48")
    assert "192.0.2.1" == client_ip(
        "198.51.100.1", ["192.0.2.1" + ",198.51.100.7" * 1_000], trusted
    )
    assert sorted(trusted) == sorted(parsed)


def test_proxy_setting_is_validated() -> None:
    """Counted from the wrong end, the header would be the client's own."""
    assert 0 == check_proxies(0)
    assert ("10.0.0.1",) == check_proxies(["10.0.0.1"])
    for wrong in (-1, ["proxy.example"], ["10.0.0.0/33"]):
        with pytest.raises(ValueError, match="trusted_proxies"):
            check_proxies(wrong)
    for wrong_type in ("10.0.0.1", True, None):  # True would count as one proxy
        with pytest.raises(TypeError, match=f"trusted_proxies .*{type(wrong_type).__name__}"):
            check_proxies(cast("Any", wrong_type))


def test_peer_without_an_address_is_unknown() -> None:
    """A unix socket or a test client has none."""
    assert "" == client_ip("testclient", [], 0)


def test_malformed_referrer_is_omitted() -> None:
    """It rejects no key without referrer restrictions."""
    assert "https://shop.example/" == read_referrer([("referer", "https://shop.example/")])
    assert not read_referrer([("referer", "a" * 5_000)])
    assert not read_referrer([("referer", "a\nb")])


def test_every_verdict_maps_to_a_rejection() -> None:
    """Invalid key, forbidden request, or exhausted limit."""
    assert reject(Verdict(VerdictCode.VALID)) is None
    expected = {
        RejectionKind.UNAUTHENTICATED: "malformed unknown wrong_access_key revoked superseded "
        "expired disabled",
        RejectionKind.FORBIDDEN: "project_suspended wrong_project wrong_mode ip_not_allowed "
        "referrer_not_allowed app_not_allowed target_not_allowed missing_permission",
        RejectionKind.LIMITED: "rate_limited quota_exceeded",
    }
    actual = {
        kind: " ".join(
            found.error
            for code in VerdictCode
            if (found := reject(Verdict(code))) is not None and found.kind is kind
        )
        for kind in expected
    }
    assert expected == actual


def test_limited_request_gets_retry_after() -> None:
    """The latest reset of the exhausted limits; a lifetime quota has none."""
    soon, later = (SystemClock().now() + timedelta(seconds=span) for span in (30, 90))
    limited = Verdict(
        VerdictCode.RATE_LIMITED,
        key_standing=Standing(5, 0, soon),
        project_standing=Standing(5, 0, later),
        quota_standing=Standing(5, 1, None),
    )
    found = reject(limited)
    assert found is not None
    assert found.retry_after in range(85, 92)
    never = reject(limited._replace(quota_standing=Standing(5, 0, None)))
    assert never is not None
    assert never.retry_after is None


def test_rate_limit_headers_list_every_limit() -> None:
    """They are structured fields with integers of at most 15 digits."""
    soon = SystemClock().now() + timedelta(seconds=30, milliseconds=-1)
    verdict = Verdict(
        VerdictCode.VALID,
        key_standing=Standing(100, 99, soon),
        quota_standing=Standing(2**62, 7, None),
    )
    policy = '"key";q=100, "quota";q=999999999999999'
    expected = [("ratelimit-policy", policy), ("ratelimit", '"key";r=99;t=30, "quota";r=7')]
    assert expected == http.rate_limit_headers(verdict)
    assert [] == http.rate_limit_headers(Verdict(VerdictCode.VALID))


def test_authority_failure_is_generic_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The client may retry; faults of the service's own key are not shown."""
    unavailable = Rejection(RejectionKind.UNAVAILABLE, "unavailable", 1)
    with caplog.at_level(logging.ERROR, "keyauthority.middleware"):
        assert unavailable == reject_failure(Unavailable("down"))
        assert not caplog.messages
        denied = reject_failure(PermissionDenied("the caller lacks keys:verify"))
    assert unavailable._replace(retry_after=None) == denied
    assert ["cannot verify keys: PERMISSION_DENIED: the caller lacks keys:verify"] == (
        caplog.messages
    )


class Recorder:
    """A verifier that lets every key through and notes its calls."""

    def __init__(self, kind: KeyKind = KeyKind.RESTRICTED) -> None:
        self.calls: list[tuple[str, str, int]] = []
        self._verdict = Verdict(VerdictCode.VALID, kind=kind, permissions=("orders:write",))

    def verify(
        self, secret_key: str, *, client_ip: str = "", cost: int = 1, **_others: Any
    ) -> Verdict:
        """Note the call."""
        self.calls.append((secret_key, client_ip, cost))
        return self._verdict


def request(*headers: tuple[str, str]) -> Request:
    """A request from a proxy."""
    return Request([("x-forwarded-for", "192.0.2.7"), *headers], "10.0.0.1")


def admitted(
    guard: Guard,
    verifier: Recorder,
    asked: Request,
    permissions: tuple[str, ...] = (),
    earlier: Admission | None = None,
) -> Admission:
    """The admission of a request that is let through."""
    found = admit(guard, verifier, asked, permissions, earlier)
    assert isinstance(found, Admission)
    return found


def test_later_guard_checks_permissions_of_the_first_verdict() -> None:
    """The key is verified once, at the first guard's cost."""
    verifier, asked = Recorder(), request(("x-api-key", KEY))
    first = admitted(Guard(cost=5), verifier, asked)
    second = admitted(Guard(cost=7), verifier, asked, ("orders:read",), first)
    assert (True, False) == (first.spent, second.spent)
    assert MISSING_PERMISSION == admit(Guard(), verifier, asked, ["refunds:read"], second)
    assert [(KEY, "10.0.0.1", 5)] == verifier.calls


def test_secret_key_satisfies_every_later_guard() -> None:
    """It lists no permissions and holds all."""
    verifier, asked = Recorder(KeyKind.SECRET), request(("x-api-key", KEY))
    first = admitted(Guard(), verifier, asked)
    assert not admitted(Guard(), verifier, asked, ("refunds:read",), first).spent


def test_later_guard_with_other_facts_verifies_at_no_cost() -> None:
    """A guard without trusted proxies does not rely on another guard's address."""
    verifier, asked = Recorder(), request(("x-api-key", KEY))
    first = admitted(Guard(trusted_proxies=1), verifier, asked)
    assert not admitted(Guard(), verifier, asked, (), first).spent
    assert [(KEY, "192.0.2.7", 1), (KEY, "10.0.0.1", 0)] == verifier.calls


def test_verdict_is_bound_to_its_key_and_verifier() -> None:
    """Headers may change on the way, and authorities are independent."""
    verifier, another = Recorder(), Recorder()
    first = admitted(Guard(), verifier, request(("x-api-key", KEY)))
    assert admitted(Guard(), verifier, request(("x-api-key", OTHER)), (), first).spent
    assert admitted(Guard(), another, request(("x-api-key", KEY)), (), first).spent
    assert NO_KEY == admit(Guard(header="x-shop"), verifier, request(("x-api-key", KEY)), [], first)
    assert [KEY, OTHER] == [key for key, _, _ in verifier.calls]
    assert [KEY] == [key for key, _, _ in another.calls]
    assert KEY not in repr(first)


def test_missing_verifier_is_named_in_one_sentence() -> None:
    """A framework's AttributeError would not explain the remedy."""
    verifier = Recorder()
    assert verifier is current_verifier(verifier)
    assert verifier is current_verifier(lambda: verifier)
    nothing: Any = object()
    sources = (lambda: None, lambda: vars()["verifier"], lambda: nothing.verifier)
    for source in sources:
        with pytest.raises(RuntimeError, match=MISSING_VERIFIER):
            current_verifier(source)
    with pytest.raises(TypeError, match="verifier is"):
        check_verifier("127.0.0.1:50051", awaited=False)


def test_guard_refuses_the_verifier_of_the_other_kind() -> None:
    """Without the check each request would fail, with an error of Python about `await`."""
    blocking, asynchronous = Client(), AsyncClient()
    for wrong in (blocking, Verifier(blocking)):
        check_verifier(wrong, awaited=False)
        with pytest.raises(TypeError, match="awaits its verifier: pass an AsyncVerifier"):
            check_verifier(wrong, awaited=True)
    for other in (asynchronous, AsyncVerifier(asynchronous)):
        check_verifier(other, awaited=True)
        with pytest.raises(TypeError, match="does not await its verifier: pass a Verifier"):
            check_verifier(other, awaited=False)


async def test_guard_names_the_wrong_kind_of_verifier_from_a_callable() -> None:
    """A callable is known only when it is called."""

    class Awaited:
        async def verify(self, *_: object, **__: object) -> Verdict:
            raise AssertionError("never awaited")

    asked = request(("x-api-key", KEY))
    with pytest.raises(TypeError, match="does not await its verifier"):
        admit(Guard(), cast("Any", Awaited()), asked, [])
    with pytest.raises(TypeError, match="awaits its verifier"):
        await admit_async(Guard(), cast("Any", Recorder()), asked, [])


def test_zone_of_a_link_local_peer_is_removed() -> None:
    """It names an interface of this machine only."""
    assert "fe80::1" == client_ip("fe80::1%eth0", [], 0)
