"""Restrictions: reading addresses, referrers and certificates, and matching them.

Pure, standard library only. Each `check_…` raises ValueError with a sentence for people. A record's
restrictions are compiled once, by `Matcher`; what a caller says of a client is parsed in each call
and never kept, so that memory does not depend on what callers send.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from functools import cache
from typing import Final, NamedTuple, TypeVar

from keyauthority.model import AndroidApp, ApiTarget, ApiTargetRestriction, App, Restrictions
from keyauthority.restrictions.addresses import (
    AddressSet,
    check_ip,
    check_ip_or_network,
    ip_allowed,
    ips_within,
    parse_address,
    parse_block,
)
from keyauthority.restrictions.referrers import (
    REFERRER_MAX,
    Referrer,
    check_referrer,
    matches_any,
    parse_pattern,
    parse_referrer,
)

__all__ = [
    "DIRECT",
    "REFERRER_MAX",
    "FactParsers",
    "Matcher",
    "canonical",
    "canonical_sha1",
    "check_ip",
    "check_ip_or_network",
    "check_referrer",
    "ip_allowed",
    "ips_within",
    "memoized_parsers",
    "parse_address",
]

T = TypeVar("T")

_SHA1: Final = re.compile(r"[0-9a-f]{40}", re.ASCII)
_SHA1_MAX: Final = 59  # characters, with colons


class FactParsers(NamedTuple):
    """Reads the facts of a call; both answer None for a text that cannot be read."""

    address: Callable[[str], int | None]
    referrer: Callable[[str], Referrer | None]


DIRECT: Final = FactParsers(parse_address, parse_referrer)


def memoized_parsers() -> FactParsers:
    """Return parsers that read each distinct text once. For one call: they keep what they read."""
    return FactParsers(cache(parse_address), cache(parse_referrer))


def canonical_sha1(text: str) -> str:
    """Return a certificate's SHA-1 in lower case without colons; ValueError if it is none."""
    digits = text.replace(":", "").lower() if len(text) <= _SHA1_MAX else ""
    if _SHA1.fullmatch(digits) is None:
        raise ValueError("a SHA-1 is 40 hexadecimal digits, with or without colons")
    return digits


def canonical(restrictions: Restrictions) -> Restrictions:
    """Return the restrictions as they are stored: the SHA-1 of each certificate canonical."""
    apps = tuple(
        AndroidApp(app.package, canonical_sha1(app.sha1)) for app in restrictions.android_apps
    )
    return replace(restrictions, android_apps=apps) if apps else restrictions


class Matcher:
    """Restrictions in the form that facts are compared with.

    Each method says whether its lists allow a fact; a list that is empty allows all. A fact that
    is missing or cannot be read is not allowed by any other, and an entry that cannot be read
    (of a record that another version has written) allows nothing.
    """

    __slots__ = ("_addresses", "_android", "_ios", "_referrers", "_targets")

    def __init__(self, only: Restrictions) -> None:
        self._addresses = (
            AddressSet(_readable(parse_block, only.allowed_ips)) if only.allowed_ips else None
        )
        self._referrers = (
            tuple(_readable(parse_pattern, only.allowed_referrers))
            if only.allowed_referrers
            else None
        )
        self._android = frozenset((app.package, app.sha1) for app in only.android_apps)
        self._ios = frozenset(only.ios_bundle_ids)
        self._targets = _targets(only.api_targets)

    def allows_address(self, client_ip: str, parse: Callable[[str], int | None]) -> bool:
        """True if the address lies in one of the blocks."""
        if self._addresses is None:
            return True
        address = parse(client_ip)
        return address is not None and address in self._addresses

    def allows_referrer(self, referrer: str, parse: Callable[[str], Referrer | None]) -> bool:
        """True if the page that the client came from matches one of the patterns."""
        if self._referrers is None:
            return True
        actual = parse(referrer)
        return actual is not None and matches_any(self._referrers, actual)

    def allows_app(self, app: App | None) -> bool:
        """True if the app is one of the Android apps and one of the bundles, of both that exist."""
        if not self._android and not self._ios:
            return True
        if app is None or (self._ios and app.ios_bundle_id not in self._ios):
            return False
        if not self._android:
            return True
        try:
            return (app.android_package, canonical_sha1(app.android_sha1)) in self._android
        except ValueError:
            return False

    def allows_target(self, target: ApiTarget | None) -> bool:
        """True if the service is named and, where methods are, the method too."""
        if not self._targets:
            return True
        methods = self._targets.get(target.service) if target is not None else None
        if methods is None or target is None:
            return False
        return methods.every or target.method in methods.exact or _begins(target.method, methods)


class _Methods(NamedTuple):
    """The methods of a service that may be called."""

    every: bool
    exact: frozenset[str]
    prefixes: tuple[str, ...]


def _begins(method: str, methods: _Methods) -> bool:
    return bool(method) and method.startswith(methods.prefixes)


def _targets(targets: Iterable[ApiTargetRestriction]) -> dict[str, _Methods]:
    named: dict[str, list[str]] = {}
    every = set()
    for target in targets:
        named.setdefault(target.service, []).extend(target.methods)
        if not target.methods:
            every.add(target.service)
    return {
        service: _Methods(
            service in every,
            frozenset(method for method in methods if method and not method.endswith("*")),
            tuple(method[:-1] for method in methods if method.endswith("*")),
        )
        for service, methods in named.items()
    }


def _readable(parse: Callable[[str], T], texts: Iterable[str]) -> Iterable[T]:
    for text in texts:
        with suppress(ValueError):
            yield parse(text)
