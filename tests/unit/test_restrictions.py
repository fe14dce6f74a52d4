"""Restrictions to apps and API targets."""

from __future__ import annotations

import pytest

from keyauthority.model import AndroidApp, ApiTarget, ApiTargetRestriction, App, Restrictions
from keyauthority.restrictions import Matcher, canonical_sha1

SHA1 = "da39a3ee5e6b4b0d3255bfef95601890afd80709"
SHA1_COLONS = "DA:39:A3:EE:5E:6B:4B:0D:32:55:BF:EF:95:60:18:90:AF:D8:07:09"


@pytest.mark.parametrize("text", [SHA1, SHA1.upper(), SHA1_COLONS, SHA1_COLONS.lower()])
def test_sha1_is_normalized_from_every_usual_form(text: str) -> None:
    """It is compared without colons in lower case."""
    assert canonical_sha1(text) == SHA1


@pytest.mark.parametrize(
    "text", ["", SHA1[:-1], SHA1 + "0", "g" + SHA1[1:], SHA1 + "\n", "\uff11" * 40]
)
def test_malformed_sha1_is_refused(text: str) -> None:
    """A SHA-1 has 40 hexadecimal digits."""
    with pytest.raises(ValueError, match="40 hexadecimal digits"):
        canonical_sha1(text)


@pytest.mark.parametrize(
    ("app", "expected"),
    [
        (App(android_package="example.shop", android_sha1=SHA1), True),
        (App(android_package="example.shop", android_sha1=SHA1_COLONS), True),
        (App(android_package="example.shop", android_sha1=SHA1, ios_bundle_id="x"), True),
        (App(android_package="example.Shop", android_sha1=SHA1), False),
        (App(android_package="example.shop.evil", android_sha1=SHA1), False),
        (App(android_package="example.other", android_sha1=SHA1), False),
        (App(android_package="example.shop", android_sha1="0" * 40), False),
        (App(android_package="example.shop"), False),
        (App(android_package="example.shop", android_sha1="not one"), False),
        (App(android_sha1=SHA1), False),
        (App(ios_bundle_id="example.shop"), False),
        (None, False),
    ],
)
def test_android_app_is_matched_by_package_and_certificate(app: App | None, expected: bool) -> None:
    """Both must belong to one entry."""
    allowed = (AndroidApp("example.shop", SHA1), AndroidApp("example.other", "0" * 40))
    assert Matcher(Restrictions(android_apps=allowed)).allows_app(app) is expected


@pytest.mark.parametrize(
    ("app", "expected"),
    [
        (App(ios_bundle_id="example.shop.ios"), True),
        (App(ios_bundle_id="example.shop.ios.evil"), False),
        (App(ios_bundle_id="example.shop"), False),
        (App(android_package="example.shop.ios"), False),
        (App(), False),
        (None, False),
    ],
)
def test_ios_app_is_matched_by_bundle_id(app: App | None, expected: bool) -> None:
    """The bundle id must equal one of the entries."""
    bundles = ("example.other", "example.shop.ios")
    assert Matcher(Restrictions(ios_bundle_ids=bundles)).allows_app(app) is expected


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (ApiTarget("translate.example", "GetText"), True),
        (ApiTarget("translate.example", "Get"), True),
        (ApiTarget("translate.example", "Drop"), True),
        (ApiTarget("translate.example", "DropAll"), False),
        (ApiTarget("translate.example", "getText"), False),
        (ApiTarget("translate.example"), False),
        (ApiTarget("translate.example.evil", "GetText"), False),
        (ApiTarget("translate", "GetText"), False),
        (ApiTarget("maps.example", "Anything"), True),
        (ApiTarget("maps.example"), True),
        (ApiTarget("every.example", "Anything"), True),
        (ApiTarget("every.example"), False),
        (ApiTarget(""), False),
        (None, False),
    ],
)
def test_target_is_matched_by_service_and_method(target: ApiTarget | None, expected: bool) -> None:
    """The service is exact; a method may end in `*`; without methods all match."""
    allowed = (
        ApiTargetRestriction("translate.example", ("Get*", "Drop")),
        ApiTargetRestriction("maps.example"),
        ApiTargetRestriction("every.example", ("*",)),
    )
    assert Matcher(Restrictions(api_targets=allowed)).allows_target(target) is expected
