"""Records survive conversion to rows and JSON and back, to the microsecond."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyauthority.model import (
    AndroidApp,
    ApiTargetRestriction,
    Key,
    KeyKind,
    KeyMode,
    Quota,
    QuotaPeriod,
    RateLimit,
    Restrictions,
    RevokeReason,
)
from keyauthority_server.store.interface import Store
from keyauthority_server.store.sql.row_codec import (
    KEY_COLUMNS,
    PROJECT_COLUMNS,
    flat_from,
    flat_key,
    flat_project,
    key_from,
    microseconds,
    project_from,
    time_from,
    to_json,
    values_of,
)
from tests.store.engines import POSTGRES, Engine
from tests.store.factories import NOON, SECOND, create, create_project, key, project

EVERYTHING = key(
    "p",
    mode=KeyMode.TEST,
    kind=KeyKind.RESTRICTED,
    purpose="nightly export \u202e \x00 'quoted' \U0001f511",
    permissions=("orders:read", "billing.*:write"),
    restrictions=Restrictions(
        allowed_ips=("10.0.0.0/8", "::1"),
        allowed_referrers=("https://*.example.com/*",),
        android_apps=(AndroidApp("org.example", "a" * 40),),
        ios_bundle_ids=("org.example.ios",),
        api_targets=(ApiTargetRestriction("a.B", ("C*", "D")), ApiTargetRestriction("e.F")),
    ),
    rate_limit=RateLimit(0, timedelta(days=1)),
    quota=Quota(2**63 - 1, QuotaPeriod.MONTH),
    labels={"b": "2", "a": ""},
    disabled=True,
    expire_time=NOON + 3 * SECOND,
    supersede_time=NOON + 2 * SECOND,
    revoke_time=NOON + SECOND,
    revoke_reason=RevokeReason.LEAKED,
    revoke_note="found in a log",
    created_by="KA000000000000000000",
    created_from="::1",
    predecessor_access_key="KA000000000000000001",
    successor_access_key="KA000000000000000002",
    publishable_key="pk_test_x",
    operator_projects=("q", "r"),
    revision=7,
)


@pytest.mark.parametrize("record", [EVERYTHING, key("p"), key("")], ids=["all", "bare", "operator"])
def test_key_roundtrips_through_row_and_json(record: Key) -> None:
    """A key is the same after a row and after JSON."""
    flat = flat_key(record)
    assert flat == flat_from(KEY_COLUMNS, values_of(KEY_COLUMNS, flat))
    assert flat == json.loads(to_json(flat))
    assert record == key_from(flat)


def test_project_roundtrips_through_row_and_json() -> None:
    """A project is the same after a row and after JSON."""
    record = project(
        display_name="Shop", labels={"a": "b"}, suspended=True, rate_limit=RateLimit(0, SECOND)
    )
    flat = flat_project(record)
    assert flat == flat_from(PROJECT_COLUMNS, values_of(PROJECT_COLUMNS, flat))
    assert flat == json.loads(to_json(flat))
    assert record == project_from(flat)


def test_unset_fields_are_omitted_from_flat_records() -> None:
    """Unset fields are left out; a limit of 0 is set."""
    bare = {"access_key", "project_id", "mode", "kind", "create_time", "update_time", "revision"}
    assert bare == set(flat_key(key("p")))
    assert 0 == flat_key(EVERYTHING)["rate_limit_limit"]


@given(st.datetimes(timezones=st.just(UTC)))
def test_time_roundtrips_through_microseconds_exactly(time: datetime) -> None:
    """Every time that Python can represent survives exactly."""
    assert time == time_from(microseconds(time))


async def test_key_roundtrips_through_the_store(store: Store, engine: Engine) -> None:
    """All fields of a key come back unchanged, except those that apply stamps."""
    owner = await create_project(store)
    record = key(
        owner.project_id,
        **{
            name: getattr(EVERYTHING, name)
            for name in Key.__slots__
            if name not in ("access_key", "project_id", "revision", "predecessor_access_key")
        },
    )
    if engine is POSTGRES:  # its texts hold no NUL, which no request may hold either
        record = replace(record, purpose=record.purpose.replace("\x00", ""))
    stored = await create(store, record)
    assert stored == await store.get_key(record.access_key, None)
    assert flat_key(record) | {"revision": 2} == flat_key(stored)
