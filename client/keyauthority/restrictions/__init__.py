"""Restrictions: parsing of addresses, referrers and app certificates, and matching of facts.

Pure functions, standard library only; it decides nothing beyond one restriction. Each `check_…`
raises ValueError with a message for the user. Begin with `Matcher`, which compiles the restrictions
of a record once; facts of a call are parsed per call and never stored, so that callers cannot fill
memory.
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
    """Parsers of the facts of a call; both return None for an invalid text."""

    address: Callable[[str], int | None]
    referrer: Callable[[str], Referrer | None]


DIRECT: Final = FactParsers(parse_address, parse_referrer)


def memoized_parsers() -> FactParsers:
    """Return parsers that parse each distinct text once; use for one call, since they cache."""
    return FactParsers(cache(parse_address), cache(parse_referrer))


def canonical_sha1(text: str) -> str:
    """Return a SHA-1 in lower case without colons. Raises ValueError for any other text."""
    digits = text.replace(":", "").lower() if len(text) <= _SHA1_MAX else ""
    if _SHA1.fullmatch(digits) is None:
        raise ValueError("a SHA-1 is 40 hexadecimal digits, with or without colons")
    return digits


def canonical(restrictions: Restrictions) -> Restrictions:
    """Return the restrictions in stored form, with canonical SHA-1s."""
    apps = tuple(
        AndroidApp(app.package, canonical_sha1(app.sha1)) for app in restrictions.android_apps
    )
    return replace(restrictions, android_apps=apps) if apps else restrictions


class Matcher:
    """Compiled restrictions of a record.

    Each method returns whether its list allows a fact. An empty list allows all; any other list
    rejects a missing or invalid fact. An invalid entry, from a record written by another version,
    allows nothing.
    """

    __slots__ = ("_addresses", "_android", "_ios", "_referrers", "_targets")

    def __init__(self, restrictions: Restrictions) -> None:
        allowed_ips, allowed_referrers = restrictions.allowed_ips, restrictions.allowed_referrers
        self._addresses = AddressSet(_valid(parse_block, allowed_ips)) if allowed_ips else None
        self._referrers = (
            tuple(_valid(parse_pattern, allowed_referrers)) if allowed_referrers else None
        )
        self._android = frozenset((app.package, app.sha1) for app in restrictions.android_apps)
        self._ios = frozenset(restrictions.ios_bundle_ids)
        self._targets = _targets(restrictions.api_targets)

    def allows_address(self, client_ip: str, parse: Callable[[str], int | None]) -> bool:
        """Return True if one of the blocks contains the address."""
        if self._addresses is None:
            return True
        address = parse(client_ip)
        return address is not None and address in self._addresses

    def allows_referrer(self, referrer: str, parse: Callable[[str], Referrer | None]) -> bool:
        """Return True if the referrer matches one of the patterns."""
        if self._referrers is None:
            return True
        actual = parse(referrer)
        return actual is not None and matches_any(self._referrers, actual)

    def allows_app(self, app: App | None) -> bool:
        """Return True if the app is in each non-empty list: Android apps, iOS bundles."""
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
        """Return True if the service is listed with the method, or without methods."""
        if not self._targets:
            return True
        methods = self._targets.get(target.service) if target is not None else None
        if methods is None or target is None:
            return False
        return methods.all or target.method in methods.exact or _has_prefix(target.method, methods)


class _Methods(NamedTuple):
    """The allowed methods of a service."""

    all: bool
    exact: frozenset[str]
    prefixes: tuple[str, ...]


def _has_prefix(method: str, methods: _Methods) -> bool:
    return bool(method) and method.startswith(methods.prefixes)


def _targets(targets: Iterable[ApiTargetRestriction]) -> dict[str, _Methods]:
    methods_of: dict[str, list[str]] = {}
    unrestricted = set()
    for target in targets:
        methods_of.setdefault(target.service, []).extend(target.methods)
        if not target.methods:
            unrestricted.add(target.service)
    return {
        service: _Methods(
            service in unrestricted,
            frozenset(method for method in methods if method and not method.endswith("*")),
            tuple(method[:-1] for method in methods if method.endswith("*")),
        )
        for service, methods in methods_of.items()
    }


def _valid(parse: Callable[[str], T], texts: Iterable[str]) -> Iterable[T]:
    for text in texts:
        with suppress(ValueError):
            yield parse(text)
