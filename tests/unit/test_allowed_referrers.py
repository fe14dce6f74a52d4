"""allowed_referrers: patterns of pages, compared after parsing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyauthority.model import Restrictions
from keyauthority.restrictions import DIRECT, REFERRER_MAX, Matcher, check_referrer


def referrer_allowed(patterns: tuple[str, ...], referrer: str) -> bool:
    """Whether a key with these patterns may be used from the page."""
    matcher = Matcher(Restrictions(allowed_referrers=patterns))
    return matcher.allows_referrer(referrer, DIRECT.referrer)


@pytest.mark.parametrize(
    ("pattern", "referrer"),
    [
        ("https://shop.example/*", "https://shop.example/"),
        ("https://shop.example/*", "https://shop.example"),
        ("https://shop.example/*", "https://shop.example/cart?item=1#top"),
        ("https://shop.example/*", "HTTPS://SHOP.EXAMPLE/cart"),
        ("https://shop.example/*", "https://shop.example:443/cart"),
        ("https://shop.example:443/*", "https://shop.example/cart"),
        ("https://shop.example/*", "https://shop.example./cart"),
        ("https://shop.example", "https://shop.example/any/page"),
        ("https://shop.example/", "https://shop.example/"),
        ("https://shop.example/app", "https://shop.example/app?x=1"),
        ("https://shop.example/app/*", "https://shop.example/app/x/y"),
        ("https://shop.example:8443/*", "https://shop.example:8443/"),
        ("https://*.shop.example/*", "https://www.shop.example/"),
        ("https://*.shop.example/*", "https://a.b.shop.example/"),
        ("shop.example/*", "https://shop.example/"),
        ("shop.example", "http://shop.example/x"),
        ("localhost:3000", "http://localhost:3000/x"),
        ("http://127.0.0.1:8080/*", "http://127.0.0.1:8080/"),
        ("http://[2001:db8::1]/*", "http://[2001:DB8:0::1]/"),
        ("http://[::1]:8080/*", "http://[::1]:8080/x"),
        ("https://bücher.example/*", "https://xn--bcher-kva.example/"),
        ("https://xn--bcher-kva.example/*", "https://bücher.example/"),
        ("https://BÜCHER.example/*", "https://xn--bcher-kva.example/"),
        ("android-app://example.shop/*", "android-app://example.shop/"),
    ],
)
def test_page_under_the_pattern_is_allowed(pattern: str, referrer: str) -> None:
    """Scheme, host, port and path are compared in normalized form."""
    check_referrer(pattern)
    assert referrer_allowed((pattern,), referrer)


@pytest.mark.parametrize(
    ("pattern", "referrer"),
    [
        ("https://shop.example/*", "https://shop.example.evil.test/"),
        ("https://shop.example/*", "https://evil.test/https://shop.example/"),
        ("https://shop.example/*", "https://evil.test/?https://shop.example/"),
        ("https://shop.example/*", "https://evil.test#https://shop.example/"),
        ("https://shop.example/*", "https://evilshop.example/"),
        ("https://shop.example/*", "https://www.shop.example/"),
        ("https://shop.example/*", "http://shop.example/"),
        ("https://shop.example/*", "https://shop.example:444/"),
        ("https://shop.example/*", "https://shop.example:80/"),
        ("https://shop.example/*", "https://shop.example:0/"),
        ("https://shop.example/*", "https://shop.example:99999/"),
        ("https://shop.example/*", "https://shop.example:\uff14\uff14\uff13/"),
        ("https://shop.example/*", "https://shop.example:443:1/"),
        ("https://shop.example/*", "https://shop.example@evil.test/"),
        ("https://shop.example/*", "https://user@shop.example/"),
        ("https://shop.example/*", "https://evil.test\\@shop.example/"),
        ("https://shop.example/*", "https://shop.example\\.evil.test/"),
        ("https://shop.example/*", "https:\\\\shop.example/"),
        ("https://shop.example/*", "//shop.example/"),
        ("https://shop.example/*", "shop.example/"),
        ("https://shop.example/*", "/"),
        ("https://shop.example/*", " https://shop.example/"),
        ("https://shop.example/*", "https://shop.example/\n"),
        ("https://shop.example/*", "https://sh\top.example/"),
        ("https://shop.example/*", "https://shop.example%2e/"),
        ("https://shop.example/*", "https://shop%2eexample/"),
        ("https://shop.example/*", "https://shop\u3002example/"),
        ("https://shop.example/*", "https://\uff53hop.example/"),
        ("https://shop.example/*", "https://shop.example../"),
        ("https://shop.example/app/*", "https://shop.example/app"),
        ("https://shop.example/app/*", "https://shop.example/APP/x"),
        ("https://shop.example/app/*", "https://shop.example/app/../admin"),
        ("https://shop.example/app/*", "https://shop.example/app/%2e%2E/admin"),
        ("https://shop.example/app/*", "https://shop.example/app/.%2e/admin"),
        ("https://shop.example/app/*", "https://shop.example/app/./x"),
        ("https://shop.example/app", "https://shop.example/app/"),
        ("https://shop.example/", "https://shop.example/x"),
        ("https://*.shop.example/*", "https://shop.example/"),
        ("https://*.shop.example/*", "https://.shop.example/"),
        ("https://*.shop.example/*", "https://evilshop.example/"),
        ("https://*.shop.example/*", "https://www.shop.example.evil.test/"),
        ("https://*.shop.example/*", "https://evil.test%2f.shop.example/"),
        ("https://*.shop.example/*", "https://evil.test;.shop.example/"),
        ("https://*.shop.example/*", "https://evil.test,.shop.example/"),
        ("https://*.shop.example/*", "https://evil.test[.shop.example/"),
        ("http://[::1]/*", "http://evil.test[::1]/"),
        ("http://[::1]/*", "http://[::1]evil.test/"),
        ("http://[::1]/*", "http://[::1%25eth0]/"),
        ("https://strasse.example/*", "https://straße.example/"),
        ("localhost:3000", "http://localhost/"),
        ("shop.example", "ftp://shop.example/"),
        ("https://shop.example/*", "about:blank"),
        ("https://shop.example/*", "null"),
        ("https://shop.example/*", ""),
        ("https://shop.example/*", "https://"),
        ("https://shop.example/*", "https://[shop.example/"),
        ("https://shop.example/*", "\ud800"),
        ("https://shop.example/*", "https://shop.example/" + "x" * REFERRER_MAX),
    ],
    ids=lambda text: ascii(text[:60]),
)
def test_other_page_is_not_allowed(pattern: str, referrer: str) -> None:
    """No spelling makes another page, or no page, match an allowed one."""
    check_referrer(pattern)
    assert not referrer_allowed((pattern,), referrer)


@pytest.mark.parametrize(
    "pattern",
    [
        "",
        "*",
        "*.",
        "https://",
        "https:///path",
        "https://*/*",
        "https://*shop.example/",
        "https://shop.*/",
        "https://www.*.example/",
        "https://*.*.example/",
        "https://*.[::1]/",
        "https://user@shop.example/",
        "https://user:word@shop.example/",
        "https://@shop.example/",
        "https://shop.example/a*b",
        "https://shop.example/*/b",
        "https://shop.example/**",
        "https://shop.example/a/../b",
        "https://shop.example/%2e%2e/b",
        "https://shop.example/?x=1",
        "https://shop.example/?",
        "https://shop.example/#top",
        "https://shop.example:port/",
        "https://shop.example:0/",
        "https://shop.example:65536/",
        "https://shop.example:-1/",
        "https://shop example/",
        "https://shop.example/ ",
        "https://shop.example/\n",
        "https://shop.example\\evil/",
        "https://-shop.example/",
        "https://shop..example/",
        "https://.shop.example/",
        "https://shop%2eexample/",
        "https://straße.example/",
        "https://\uff53hop.example/",
        "https://[::1/",
        "https://[::g]/",
        "https://x[::1]/",
        "http*://shop.example/",
        "https:/shop.example/",
        "\ud800.example",
    ],
    ids=ascii,
)
def test_malformed_pattern_is_refused(pattern: str) -> None:
    """`*` may start the host or end the path; user and query are not allowed."""
    with pytest.raises(ValueError, match=r"."):
        check_referrer(pattern)


@given(st.text(max_size=50), st.sampled_from(["", "https://", "https://shop.example", "//", "*."]))
def test_any_text_is_answered_without_an_exception(text: str, front: str) -> None:
    """An unreadable fact is not met; an unreadable entry raises ValueError."""
    assert referrer_allowed(("https://nowhere.test/*",), front + text) is False
    try:
        check_referrer(front + text)
    except ValueError:
        return
    referrer_allowed((front + text,), "https://shop.example/")


IDEOGRAPHS = "".join(chr(0x4E00 + index * 4) for index in range(REFERRER_MAX))
LONG_HOSTS = [
    IDEOGRAPHS[:4080],
    IDEOGRAPHS[:64] + ".example",
    ".".join(IDEOGRAPHS[index] for index in range(300)),
    "a" * 64 + ".example",
    ("a" * 63 + ".") * 4 + "example",
]


@pytest.mark.parametrize("host", LONG_HOSTS, ids=lambda host: str(len(host)))
def test_overlong_host_is_refused_before_encoding(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """IDNA would take seconds for more than 253 characters, or labels over 63."""

    def encode(_: str) -> str:
        raise AssertionError("the host was encoded")

    monkeypatch.setattr("keyauthority.restrictions.referrers.nameprep", encode)
    with pytest.raises(ValueError, match=r"at most (253|63) characters"):
        check_referrer(f"https://{host}/")
    assert not referrer_allowed(("https://*.example/*",), f"https://{host}/")


def test_page_is_parsed_without_encoding_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients choose its text, so parsing must be cheap."""
    matcher = Matcher(Restrictions(allowed_referrers=("https://bücher.example/*",)))

    def encode(_: str) -> str:
        raise AssertionError("the host was encoded")

    monkeypatch.setattr("keyauthority.restrictions.referrers.nameprep", encode)
    host = ".".join(IDEOGRAPHS[start : start + 18] for start in range(0, 216, 18))
    assert not matcher.allows_referrer(f"https://{host}/", DIRECT.referrer)
    assert matcher.allows_referrer("https://bücher.example/", DIRECT.referrer)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("http://localhost:*/*", "a port is a number from 1 to 65535; it has no wildcard"),
        ("https://faß.de/*", "letters that IDNA replaces by others: write it in ASCII, as xn--…"),
        ("https://*/*", "only at the front of the host"),
        ("https://shop.example/*/x", "only at the end of the path"),
        ("https://user@shop.example/", "user information is not allowed"),
        ("https://shop.example/?x", "no query and no fragment"),
        ("https://", "a host is required"),
        ("https://shop%2eexample/", "no escapes and no zone"),
        ("https://[::g]/", "the host is not a name"),
        ("https://" + ".".join([IDEOGRAPHS[::225][:18]] * 6), "longer in ASCII, as xn--…"),
    ],
    ids=lambda text: ascii(text[:30]),
)
def test_refused_pattern_names_the_fault(pattern: str, reason: str) -> None:
    """The message names the part and the remedy."""
    with pytest.raises(ValueError, match=r".") as refused:
        check_referrer(pattern)
    assert reason in str(refused.value)
