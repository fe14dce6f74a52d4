"""Requirements of routes: a misspelt one never opens its route."""

from __future__ import annotations

import logging

import pytest

from keyauthority.cli.logs import RateLimitFilter
from keyauthority.gateway.requirements import Requirements, from_extensions, from_query
from keyauthority.model import ApiTarget, KeyMode
from tests.client.records import TOKEN

PROJECT = "0c4a1281-58e9-46df-9c98-3aede655043e"
ALL = Requirements(
    ("orders:read", "orders:write"), KeyMode.LIVE, PROJECT, 3, ApiTarget("shop.v1.Orders", "List")
)
QUERY = (
    f"permission=orders:read&permission=orders%3Awrite&mode=live&project_id={PROJECT}"
    "&cost=3&service=shop.v1.Orders&method=List"
)


def test_requirements_are_read_from_the_query() -> None:
    """Permissions are repeated there; none are needed."""
    assert ALL == from_query(QUERY.encode())
    assert Requirements() == from_query(b"")


def test_requirements_are_read_from_context_extensions() -> None:
    """Permissions are separated by commas there."""
    extensions = {"permission": "orders:read, orders:write", "mode": "live", "cost": "3"}
    extensions |= {"project_id": PROJECT, "service": "shop.v1.Orders", "method": "List"}
    assert ALL == from_extensions(extensions)
    assert Requirements() == from_extensions({})


@pytest.mark.parametrize(
    "query",
    [
        *(
            "permision=orders:read",
            "Permission=orders:read",
            "permission",
            "&",
            "a=1",
            "=orders:read",
        ),
        *("permission=", "permission=orders", "permission=*:read", "permission=orders:read,a:b"),
        *("permission=orders:read&", "permission=Orders:read", "permission=orders%00:read"),
        *("mode=", "mode=LIVE", "mode=prod", "mode=live&mode=live", "mode=live&mode=test"),
        *("project_id=", "project_id=shop", f"project_id={PROJECT.upper()}"),
        *("cost=", "cost=-1", "cost=1.5", "cost=4294967296", "cost=٣", "cost=1&cost=2"),
        *("service=", "service=a%0Ab", f"service={'a' * 256}", "method=List", "service=a&method="),
        *("permission=%ff:read", "permission=orders:read#x", "&".join(["permission=a:b"] * 101)),
    ],
)
def test_misspelt_requirement_is_none(query: str) -> None:
    """It must not be taken for a weaker one."""
    assert from_query(query.encode()) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("permision", "a:b"), ("permission", "a:b,"), ("permission", ""), ("mode", "Live"), ("", "")],
)
def test_misspelt_context_extension_is_none(name: str, value: str) -> None:
    """The same rules, where a comma separates permissions."""
    assert from_extensions({name: value}) is None


def test_misspelt_requirement_is_logged_without_tokens(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A proxy that passes the client's query on by mistake may pass a key in it."""
    assert from_extensions({f"a\n{TOKEN}": "1"}) is None
    (line,) = caplog.messages
    assert "unknown" in line
    assert "\n" not in line
    assert TOKEN not in line


def test_message_that_every_check_causes_is_written_once_a_second() -> None:
    """A flood of requests must not be a flood of lines; another message is not held back."""
    limit = RateLimitFilter()

    def passes(text: str, name: str) -> bool:
        record = logging.LogRecord(name, logging.ERROR, "file", 1, text, ("argument",), None)
        return limit.filter(record)

    check, other = "keyauthority.gateway.check", "keyauthority.gateway"
    assert [True, False, True] == [passes(text, check) for text in ("a %s", "a %s", "b %s")]
    assert [True, True] == [passes("a %s", other) for _ in range(2)]
