"""Rules: the permissions that a request needs, by method and path."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pytest

from keyauthority.http.rejection import NOT_LISTED, Rejection
from keyauthority.middleware.admission import Permissions, check_permissions
from keyauthority.middleware.rules import MethodRules, RouteRules

READ, WRITE, ADMIN = ("orders:read",), ("orders:write",), ("admin:all",)
RULES: dict[str, Permissions] = {
    "* /health": None,
    "* /.well-known/*": None,
    "GET /orders/*": READ,
    "DELETE /orders/*": WRITE,
    "* /admin": ADMIN,
    "* /Admin/open": None,
    "* /größe": ADMIN,
    "* /*": [],
}
OPEN: dict[str, Permissions] = {"* /admin": ADMIN, "* /admin/*": ADMIN, "* /*": None}


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/health", None),
        ("GET", "/health/", ()),
        ("GET", "/.well-known/x", None),
        ("GET", "/orders/1", READ),
        ("HEAD", "/orders/1", READ),
        ("DELETE", "/orders/1", WRITE),
        ("GET", "/orders/A b", READ),
        ("GET", "/orders/", READ),
        ("GET", "/admin", ADMIN),
        ("GET", "/Admin/open", None),
        ("GET", "/größe", ADMIN),
        ("POST", "/", ()),
        ("POST", "", ()),
        ("get", "/orders/1", NOT_LISTED),
        ("Delete", "/orders/1", NOT_LISTED),
        ("*", "/orders/1", NOT_LISTED),
        ("PURGE", "/orders/1", NOT_LISTED),
        ("GET", "*", NOT_LISTED),
        ("GET", "http://shop/orders/1", NOT_LISTED),
        ("GET", "/orders/../admin", NOT_LISTED),
        ("GET", "/orders/..", NOT_LISTED),
        ("GET", "/orders/%2e%2e/admin", NOT_LISTED),
        ("GET", "/orders/..;x/admin", NOT_LISTED),
        ("GET", "/orders/..\\admin", NOT_LISTED),
        ("GET", "/orders/%252e%252e/admin", NOT_LISTED),
        ("GET", "/orders/a\x00", NOT_LISTED),
        ("GET", "/orders/a%0ab", NOT_LISTED),
    ],
)
def test_first_matching_rule_decides(
    method: str, path: str, expected: Permissions | Rejection
) -> None:
    """An unmatched or ambiguous request is rejected."""
    assert expected == RouteRules(RULES).match(method, path)


@pytest.mark.parametrize(
    "path",
    [
        "/admin/",
        "/Admin",
        "//admin",
        "/admin;x=1",
        "/;x/admin",
        "/%61dmin",
        "/%2fadmin",
        "\\admin",
        "/\\admin",
        "/admin//users",
        "/ADMIN/users",
        "/admin%2fusers",
        "/admin\\users",
    ],
)
def test_other_spelling_of_a_path_does_not_bypass_its_rule(path: str) -> None:
    """Applications that normalize the path would serve it without a key."""
    assert RouteRules(OPEN).match("GET", path) in (ADMIN, NOT_LISTED)


@pytest.mark.parametrize("path", ["/", "/a", "/A/b/", "/x//y", "/100%", "/a;b", "/administrator"])
def test_unambiguous_path_stays_open(path: str) -> None:
    """An unusual spelling alone is no reason to reject."""
    assert RouteRules(OPEN).match("GET", path) is None


def test_methods_named_by_a_rule_are_known() -> None:
    """WebDAV and others have their own methods."""
    rules = RouteRules({"PROPFIND /files/*": READ, "* /*": []})
    assert READ == rules.match("PROPFIND", "/files/1")
    assert NOT_LISTED == rules.match("MKCOL", "/files/1")


@pytest.mark.parametrize(
    "rules",
    [
        {"/orders": ["a:b"]},
        {"GET orders": None},
        {"get /x": None},
        {"GET /orders/*/items": ["a:b"]},
        {"GET /orders/{id}": ["a:b"]},
        {"GET /orders?all": ["a:b"]},
        {"GET /a/../b": None},
        {"GET /a b": None},
        {"GET /orders": ["Orders:Read"]},
        {"GET /orders": ["orders:*"]},
    ],
)
def test_rule_that_matches_nothing_is_refused(rules: Mapping[str, Permissions]) -> None:
    """A typing error neither opens a route nor closes one for good."""
    with pytest.raises(ValueError, match=r"a rule is|a permission of"):
        RouteRules(rules)


def test_permissions_must_be_a_list() -> None:
    """A string would be read letter by letter."""
    with pytest.raises(TypeError, match="list of strings"):
        RouteRules({"GET /orders": "orders:read"})
    with pytest.raises(TypeError, match="list of strings"):
        MethodRules({"/shop.Orders/One": "orders:read"})
    with pytest.raises(TypeError, match=r"are strings, not \['orders:read'\]"):
        check_permissions(cast("Any", [["orders:read"]]), "RequireKey")


def test_rules_must_be_a_mapping() -> None:
    """A list of routes says nothing about the permissions that they need."""
    for rules in (RouteRules, MethodRules):
        with pytest.raises(TypeError, match="rules map each route or method"):
            rules(cast("Any", ["GET /orders"]))


def test_grpc_rules_are_method_names() -> None:
    """`*` is special at the end only."""
    rules = MethodRules({"/shop.Health/*": None, "/shop.Orders/One": READ})
    assert rules.match("/shop.Health/Check") is None
    assert READ == rules.match("/shop.Orders/One")
    assert NOT_LISTED == rules.match("/shop.Orders/OneMore")
    for rule in ("shop.Orders/One", "/shop.*/One"):
        with pytest.raises(ValueError, match="a rule is"):
            MethodRules({rule: READ})
