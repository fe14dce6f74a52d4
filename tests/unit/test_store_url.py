"""The store URL: parsing as libpq does, rejected forms, and redacted display."""

from __future__ import annotations

import pytest
from psycopg.conninfo import conninfo_to_dict

from keyauthority_server.config import StoreUrl


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://u:hidden@h/d", "postgresql://u@h/d"),
        ("postgres://u:hid:den@h/d", "postgresql://u@h/d"),
        ("postgresql://:hidden@h/d", "postgresql://h/d"),
        ("postgresql://u:hidden@[::1]:5,g/d", "postgresql://u@[::1]:5,g/d"),
        (
            "postgresql://u:hidden@h1,h2:6/d?sslmode=verify-full&sslpassword=hidden",
            "postgresql://u@h1,h2:6/d?sslmode=verify-full",
        ),
        ("postgresql:///d?%70assword=hidden&user=u", "postgresql:///d?user=u"),
        ("postgresql:///?dbname=d&password=hidden", "postgresql:///?dbname=d"),
    ],
)
def test_url_is_displayed_without_its_password(url: str, shown: str) -> None:
    """The same database, user and parameters are shown."""
    store = StoreUrl.parse(url)
    assert (shown, f"StoreUrl('{shown}')", True) == (str(store), repr(store), store.has_password)
    secret = {"password", "sslpassword"}
    told = {name: value for name, value in conninfo_to_dict(url).items() if name not in secret}
    assert told == conninfo_to_dict(shown)
    assert url == store.reveal()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u@h1,h2/d?sslmode=verify-full&target_session_attrs=any",
        "postgresql:///d?host=/run/x&port=5433&user=u",
        "postgresql://u@/d?host=/run/x,/run/y",
        "postgresql://u@h/?dbname=d%20e",
        "postgresql://h/d?service=s",
        "postgresql://%2Frun%2Fpostgresql/d",
        "sqlite:///srv/a%20b.db",
    ],
)
def test_url_without_a_password_is_displayed_unchanged(url: str) -> None:
    """All forms of libpq are accepted: several hosts, socket folders, parameters."""
    store = StoreUrl.parse(url)
    assert (url, url, False) == (str(store), store.reveal(), store.has_password)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("postgresql://u:sec/hidden@h/d", "is ambiguous"),
        ("postgresql://u:sec@hidden@h/d", "is ambiguous"),
        ("postgresql://u:sec?hidden@h/d", "is ambiguous"),
        ("postgresql://u:sec#hidden@h/d", "is ambiguous"),
        ("postgresql://u:sec[hidden]@h/d", "is ambiguous"),
        ("postgresql://u:sec hidden@h/d", "is ambiguous"),
        ("postgresql://u:sec\nhidden@h/d", "is ambiguous"),
        ("postgresql:///d?password=sec@hidden", "is ambiguous"),
        ("postgresql://u:hidden/d", "has a port that is not a number"),
        ("postgresql://u:hidden@h", "must be postgresql://USER@HOST/DATABASE"),
        ("postgresql://u@h/d?password=x&hidden=y", "has a parameter unknown to libpq"),
        ("postgresql://u:%zzhidden@h/d", "is malformed according to libpq"),
        ("postgresql://u:hidden%ff@h/d", "is not UTF-8"),
        ("mysql://u:hidden@h/d", "must be sqlite:///PATH or postgresql://"),
        ("sqlite:///a?hidden", "must be sqlite:///PATH, with an absolute path"),
        ("sqlite:///", "must be sqlite:///PATH, with an absolute path"),
    ],
)
def test_ambiguous_url_is_refused_without_its_text(url: str, reason: str) -> None:
    """Any part of it may be a password, so the error repeats none of it."""
    with pytest.raises(ValueError, match=reason) as refused:
        StoreUrl.parse(url)
    assert not {"hidden", "sec"} & set(str(refused.value).replace("'", " ").split())
    assert "hidden" not in str(refused.value)
