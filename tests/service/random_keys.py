"""Random keys in random places of their lives, and random requests to verify them."""

from __future__ import annotations

import random
from datetime import timedelta
from typing import Any, Final, NamedTuple

from keyauthority import convert
from keyauthority.model import Key, Project
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority.v1 import key_pb2
from keyauthority.v1.project_service_pb2 import GetProjectRequest
from tests.service.callers import Caller, get_key, new_key, revoke
from tests.service.lifecycle import from_now, rotate, update

FAR: Final = timedelta(days=1)  # no moment of a test is near enough to be passed in it

# Few values, so that the limits of a key and the facts of a call often match, and often just miss.
GRANTS: Final = (
    *("orders:read", "orders:write", "orders:*", "billing.*:read", "billing.invoices:write"),
    *("*:read", "billing:read", "orders.*:*", "reports:run"),
)
NEEDED: Final = (
    *("orders:read", "orders:write", "billing:read", "billing.invoices:read", "reports:run"),
    *("billing.invoices.lines:read", "orders.items:read", "billing.invoices:write"),
)
NETWORKS: Final = (
    *("10.0.0.0/8", "10.1.2.3", "192.0.2.7/24", "2001:db8::/32", "::ffff:10.0.0.0/104"),
    *("2001:0db8:0::1", "0.0.0.0/0"),
)
ADDRESSES: Final = ("10.1.2.3", "192.0.2.200", "2001:db8::1", "::ffff:10.1.2.3", "2001:db9::1", "")
PATTERNS: Final = (
    *("https://shop.example/*", "*.shop.example", "http://shop.example:8080/a/*"),
    *("https://xn--bcher-kva.example/", "shop.example/cart"),
)
REFERRERS: Final = (
    *("https://shop.example/cart", "https://shop.example.evil.test/", "http://a.shop.example/"),
    *("http://shop.example:8080/a/b", "https://b\u00fccher.example/", "https://SHOP.example", ""),
    *("https://shop.example@evil.test/", "no referrer"),
)
SHA1S: Final = ("da39a3ee5e6b4b0d3255bfef95601890afd80709", "AA:" * 19 + "AA", "aa" * 20)
PACKAGES: Final = ("example.shop", "example.other")
SERVICES: Final = ("translate.example", "maps.example")
METHODS: Final = ("Get*", "GetText", "*", "Put")
CALLED: Final = ("GetText", "GetTexts", "Put", "")


class Subject(NamedTuple):
    """A key and its project as the API gives them, and the token."""

    secret_key: str
    key: Key
    project: Project


def some(chance: random.Random, pool: tuple[str, ...], least: int = 0) -> list[str]:
    """A few of them, in any order."""
    return chance.sample(pool, chance.randint(least, 3))


def restrictions(chance: random.Random) -> key_pb2.Restrictions:
    """Restrictions of which most lists are empty: else hardly any request would pass them all."""
    made = key_pb2.Restrictions()
    if chance.random() < 0.3:
        made.allowed_ips.extend(some(chance, NETWORKS, 1))
    if chance.random() < 0.3:
        made.allowed_referrers.extend(some(chance, PATTERNS, 1))
    if chance.random() < 0.2:
        made.android_apps.add(package=chance.choice(PACKAGES), sha1=chance.choice(SHA1S))
    if chance.random() < 0.2:
        made.ios_bundle_ids.extend(chance.sample(PACKAGES, 1))
    if chance.random() < 0.3:
        made.api_targets.add(service=chance.choice(SERVICES), methods=some(chance, METHODS))
    return made


def settings(chance: random.Random, kind: str) -> dict[str, Any]:
    """Random settings of a key of this kind."""
    made: dict[str, Any] = {"restrictions": restrictions(chance)}
    if kind != "SECRET":
        made["permissions"] = some(chance, GRANTS, 1)
    if chance.random() < 0.2:
        made["expire_time"] = from_now(FAR)
    return made


def subject(root: Caller, projects: list[str], chance: random.Random) -> Subject:
    """Make a random key, and lead it into a random place of its life."""
    kind = chance.choice(("SECRET", "RESTRICTED", "PUBLISHABLE"))
    project = chance.choice(projects)
    mode = chance.choice((key_pb2.KEY_MODE_TEST, key_pb2.KEY_MODE_LIVE))
    made = new_key(root, project, kind, mode=mode, **settings(chance, kind))
    access_key, secret_key = made.key.access_key, made.secret_key
    if chance.random() < 0.3:
        update(root, access_key, **settings(chance, kind))
    if chance.random() < 0.15:
        update(root, access_key, expire_time=from_now(chance.choice((FAR, -FAR))))
    if chance.random() < 0.2:
        end = from_now(2 * FAR)
        rotated = rotate(root, access_key, chance.choice((0, 86_400)), expire_time=end)
        if chance.random() < 0.5:
            access_key, secret_key = rotated.key.access_key, rotated.secret_key
    if chance.random() < 0.1 and key_pb2.KEY_STATE_ACTIVE == get_key(root, access_key).state:
        update(root, access_key, disabled=True)
    if chance.random() < 0.1:
        revoke(root, access_key=access_key)
    owner = root.ask(GetProjectRequest(project_id=project)).project
    return Subject(
        secret_key,
        convert.key_from_proto(get_key(root, access_key)),
        convert.project_from_proto(owner),
    )


def presentation(
    chance: random.Random, one: Subject, projects: list[str], access_keys: list[str]
) -> pb.VerifyRequest:
    """A request for a key with random facts; each is left out as often as not."""
    request = pb.VerifyRequest(secret_key=one.secret_key, explain=True)
    if chance.random() < 0.2:
        request.access_key = chance.choice((one.key.access_key, chance.choice(access_keys)))
    if chance.random() < 0.3:
        request.project_id = chance.choice((one.key.project_id, chance.choice(projects)))
    if chance.random() < 0.3:
        request.mode = chance.choice((key_pb2.KEY_MODE_TEST, key_pb2.KEY_MODE_LIVE))
    if chance.random() < 0.5:
        request.permissions.extend(some(chance, NEEDED, 1))
    if chance.random() < 0.7:
        request.client_ip = chance.choice(ADDRESSES)
    if chance.random() < 0.7:
        request.referrer = chance.choice(REFERRERS)
    if chance.random() < 0.7:
        request.app.android_package = chance.choice(PACKAGES)
        request.app.android_sha1 = chance.choice(SHA1S)
        request.app.ios_bundle_id = chance.choice(PACKAGES)
    if chance.random() < 0.7:
        request.api_target.service = chance.choice(SERVICES)
        request.api_target.method = chance.choice(CALLED)
    return request
