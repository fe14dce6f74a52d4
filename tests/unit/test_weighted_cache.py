"""The weighted cache: entries bounded by total weight."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from random import Random

import pytest

from keyauthority.decision import decide
from keyauthority.model import NO_FACTS, AndroidApp, ApiTargetRestriction, Key, Restrictions
from keyauthority.weight import USUAL_BYTES, weight_of
from keyauthority_server.weighted_cache import WeightedCache
from tests.store.factories import key, project


def test_least_recent_entries_are_evicted() -> None:
    """An entry that is stored again counts as new."""
    bounded: WeightedCache[int, str] = WeightedCache(3)
    for number in (0, 1, 2, 0, 3):
        bounded.keep(number, f"value {number}")
    assert [0, 2, 3] == [number for number in range(5) if number in bounded]
    assert ["value 0", None] == [bounded.get(0), bounded.get(1)]


def test_heavy_entries_evict_several_light_ones() -> None:
    """Their weight is freed by eviction, removal and change."""
    bounded: WeightedCache[str, None] = WeightedCache(4)
    for name in "abcd":
        bounded.keep(name, None)
    bounded.keep("heavy", None, 3)
    assert {"d", "heavy"} == {name for name in [*"abcd", "heavy"] if name in bounded}
    bounded.keep("heavy", None)
    for name in "ab":
        bounded.keep(name, None)
    assert ["d", "heavy", "a", "b"] == [n for n in ["d", "heavy", "a", "b"] if n in bounded]
    bounded.drop("d")
    bounded.drop("absent")
    assert 3 == len(bounded)


def test_overweight_entry_is_cached_alone() -> None:
    """Otherwise it would be decoded for each call."""
    bounded: WeightedCache[str, None] = WeightedCache(4)
    bounded.keep("light", None)
    bounded.keep("heavy", None, 9)
    assert (False, True) == ("light" in bounded, "heavy" in bounded)
    bounded.keep("light", None)
    assert (True, False) == ("light" in bounded, "heavy" in bounded)


def test_total_weight_equals_the_sum_of_entries() -> None:
    """Random steps, compared with a plain list."""
    random, bounded = Random(1), WeightedCache[int, int](20)
    kept: list[tuple[int, int]] = []
    for _ in range(5_000):
        name, weight = random.randrange(30), random.choice((1, 1, 1, 2, 7))
        kept = [one for one in kept if one[0] != name]
        if random.random() < 0.8:
            bounded.keep(name, weight, weight)
            while kept and sum(one[1] for one in kept) + weight > 20:
                del kept[0]
            kept.append((name, weight))
        elif random.random() < 0.02:
            bounded.clear()
            kept = []
        else:
            bounded.drop(name)
        assert sorted(kept) == [(one, bounded.get(one)) for one in range(30) if one in bounded]


KEY = key("")
MANY = tuple(f"{number:0100}" for number in range(100))  # texts of 100 characters


@pytest.mark.parametrize(
    "heavy",
    [
        replace(KEY, permissions=MANY),
        replace(KEY, operator_projects=MANY),
        replace(KEY, labels=dict(zip(MANY, MANY, strict=True))),
        replace(KEY, restrictions=Restrictions(allowed_ips=MANY)),
        replace(KEY, restrictions=Restrictions(allowed_referrers=MANY)),
        replace(KEY, restrictions=Restrictions(ios_bundle_ids=MANY)),
        replace(KEY, restrictions=Restrictions(android_apps=tuple(AndroidApp(n, n) for n in MANY))),
        replace(KEY, restrictions=Restrictions(api_targets=(ApiTargetRestriction(MANY[0], MANY),))),
    ],
    ids=["permissions", "projects", "labels", "ips", "referrers", "ios", "android", "targets"],
)
def test_each_list_adds_weight(heavy: Key) -> None:
    """At least that of its characters."""
    assert 1 + 100 * 100 // USUAL_BYTES <= weight_of(heavy) <= 1 + 202 * 560 // USUAL_BYTES


def test_usual_record_has_weight_one() -> None:
    """So does an absent one."""
    usual = replace(
        KEY,
        permissions=("orders:read", "billing.*:read"),
        restrictions=Restrictions(allowed_ips=("10.0.0.0/8",)),
        labels={"team": "shop"},
    )
    assert [1, 1, 1] == [weight_of(one) for one in (usual, project(), None)]
    assert 5 < weight_of(replace(project(), labels=dict(zip(MANY, MANY, strict=True))))


def test_weight_includes_the_compiled_form() -> None:
    """An evaluated record takes more memory than one that was only read."""

    def page(number: int) -> str:
        return f"https://shop{number}.example/*"

    tracemalloc.start()
    try:
        kept = [
            replace(KEY, restrictions=Restrictions(allowed_referrers=tuple(map(page, range(100)))))
            for _ in range(20)
        ]
        for one in kept:
            decide(one, None, NO_FACTS, KEY.create_time)
        size, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert size <= 20 * USUAL_BYTES * weight_of(kept[0])
