"""Permissions: grants, concrete permissions, and coverage."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyauthority.permissions import (
    COMBINATIONS_MAX,
    EVERYTHING,
    PERMISSIONS_MAX,
    AskedPermissions,
    Grants,
    covers,
    is_concrete,
    is_grant,
    narrowest,
)

names = st.from_regex(r"[a-z][a-z0-9_-]{0,4}", fullmatch=True)
resources = st.lists(names, min_size=1, max_size=4).map(".".join)
grants = st.builds(
    "{}:{}".format,
    st.one_of(st.just("*"), resources, resources.map("{}.*".format)),
    st.one_of(st.just("*"), names),
)

# Every grant over two names and two levels: few enough to try each with each.
SMALL_RESOURCES = ["a", "b", "a.a", "a.b", "b.a", "b.b"]
SMALL_GRANTS = [
    f"{resource}:{action}"
    for resource in ["*", *SMALL_RESOURCES, *(f"{one}.*" for one in SMALL_RESOURCES)]
    for action in ["*", "read", "write", "x"]
]
COVERED = {
    grant: {other for other in SMALL_GRANTS if covers(grant, other)} for grant in SMALL_GRANTS
}


@pytest.mark.parametrize("text", ["orders:read", "a:b", "billing.invoices.lines:read", "a1_-:b-_2"])
def test_concrete_permission_is_also_a_grant(text: str) -> None:
    """It is a resource and an action; dots nest resources."""
    assert is_concrete(text)
    assert is_grant(text)


@pytest.mark.parametrize("text", ["*:*", "*:read", "billing.*:read", "billing.a.*:*", "orders:*"])
def test_wildcard_is_a_grant_but_not_concrete(text: str) -> None:
    """The resource may be `*` or end in `.*`, the action may be `*`; none is requested."""
    assert is_grant(text)
    assert not is_concrete(text)


@pytest.mark.parametrize(
    "text",
    [
        "", ":", "orders", "orders:", ":read", "orders:read:x", "Orders:read", "orders:Read",
        "1orders:read", "_a:read", "-a:read", ".a:read", "a.:read", "a..b:read", "a.1:read",
        "*a:read", "a*:read", "a.*.b:read", "*.a:read", "*.*:read", "**:read", ".*:read", "a:re*",
        "a:**", "a b:read", " a:read", "a:read ", "a:read\n", "\na:read", "é:read", "a:r\u00e9ad",
        "a:read\0", "a\uff0eb:read", "a/b:read", "a:b.c",
    ],
    ids=ascii,
)  # fmt: skip
def test_other_text_is_neither_grant_nor_permission(text: str) -> None:
    """All other texts are rejected."""
    assert not is_grant(text)
    assert not is_concrete(text)


@pytest.mark.parametrize(
    ("grant", "other", "expected"),
    [
        ("orders:read", "orders:read", True),
        ("orders:read", "orders:write", False),
        ("orders:write", "orders:read", True),
        ("orders:write", "orders:delete", False),
        ("orders:delete", "orders:read", False),
        ("orders:*", "orders:delete", True),
        ("orders:*", "order:delete", False),
        ("orders:read", "orders.lines:read", False),
        ("billing.*:read", "billing.invoices:read", True),
        ("billing.*:read", "billing.invoices.lines:read", True),
        ("billing.*:read", "billing:read", False),
        ("billing.*:read", "billings.x:read", False),
        ("billing.*:read", "billing-x.y:read", False),
        ("billing.*:write", "billing.invoices:read", True),
        ("billing.*:*", "billing.invoices:delete", True),
        ("*:read", "billing.invoices:read", True),
        ("*:read", "billing:write", False),
        ("*:*", "billing:write", True),
        ("*:*", "*:*", True),
        ("*:read", "*:*", False),
        ("*:write", "*:*", False),
        ("*:write", "billing.*:read", True),
        ("billing.*:*", "*:read", False),
        ("billing.*:*", "billing.invoices.*:read", True),
        ("billing.invoices.*:*", "billing.*:read", False),
        ("billing.*:read", "billing.*:read", True),
        ("keys:*", "operators:create", False),
    ],
)
def test_grant_coverage_follows_the_contract(grant: str, other: str, expected: bool) -> None:
    """A grant covers a permission or grant only if it allows all of it."""
    assert expected is covers(grant, other)


@given(grants)
def test_coverage_is_reflexive(grant: str) -> None:
    """A grant covers itself."""
    assert covers(grant, grant)


@pytest.mark.parametrize("grant", SMALL_GRANTS)
def test_coverage_is_transitive(grant: str) -> None:
    """A covered grant covers nothing beyond the first, so delegation never widens."""
    for other in COVERED[grant]:
        assert COVERED[other] <= COVERED[grant]


def test_coverage_is_antisymmetric() -> None:
    """Two grants that cover each other are equal."""
    for grant in SMALL_GRANTS:
        assert {grant} == {other for other in COVERED[grant] if grant in COVERED[other]}


@given(grants)
def test_full_wildcard_covers_every_grant(grant: str) -> None:
    """`*:*` allows everything."""
    assert Grants(EVERYTHING).holds([grant])


@given(grants)
def test_generated_grants_are_valid(grant: str) -> None:
    """The properties above are tested on real grants."""
    assert is_grant(grant)


def test_every_requested_permission_must_be_held() -> None:
    """Each one is covered by some grant, not necessarily the same."""
    granted = ("orders:read", "billing.*:write")
    assert Grants(granted).holds(["orders:read", "billing.invoices:read"])
    assert not Grants(granted).holds(["orders:read", "orders:write"])
    assert not Grants(()).holds(["orders:read"])
    assert Grants(()).holds([])


@given(st.lists(grants, max_size=5), st.lists(grants, max_size=3))
def test_compiled_grants_agree_with_covers(granted: list[str], needed: list[str]) -> None:
    """The compiled form answers as `covers` does, with wildcards on both sides."""
    expected = all(any(covers(grant, one) for grant in granted) for one in needed)
    assert Grants(granted).holds(needed) is expected


def test_compiled_grants_agree_with_covers_exhaustively() -> None:
    """Every pair of grants over two names and two levels."""
    for grant, covered in COVERED.items():
        compiled = Grants([grant])
        assert covered == {other for other in SMALL_GRANTS if compiled.holds([other])}


@pytest.mark.parametrize(
    ("held", "needed", "expected"),
    [
        (("orders:read",), "orders:read", {"orders:read"}),
        (("*:read", "orders:read"), "orders:read", {"orders:read"}),
        (("*:read", "orders:read"), "billing:read", {"*:read"}),
        (("orders:write",), "orders:read", {"orders:write"}),
        (("orders:write", "orders:read"), "orders:write", {"orders:write"}),
        (("billing.*:read", "billing.*:*", "*:*"), "billing.a:read", {"billing.*:read"}),
        (("billing.*:read", "billing.a:*"), "billing.a:read", {"billing.*:read", "billing.a:*"}),
        (("orders:read",), "billing:read", set()),
    ],
)
def test_needed_permission_uses_the_narrowest_grants(
    held: tuple[str, ...], needed: str, expected: set[str]
) -> None:
    """A wider grant is not used if a narrower one covers it."""
    assert expected == set(narrowest(held, needed))


@given(st.lists(st.sampled_from(SMALL_GRANTS), min_size=1, max_size=4), st.sampled_from(["a.b:x"]))
def test_used_grants_suffice(held: list[str], needed: str) -> None:
    """A key that keeps only the grants it uses loses nothing that it asks for."""
    used = narrowest(held, needed)
    assert bool(used) is Grants(held).holds((needed,))
    assert not used or Grants(used).holds((needed,))


@given(
    st.lists(st.sampled_from(SMALL_GRANTS), min_size=1, max_size=6),
    st.sampled_from(["a:read", "a.b:x", "a.b:read", "a.b.c:write", "c:read"]),
)
def test_no_used_grant_covers_another_that_covers_the_permission(
    held: list[str], needed: str
) -> None:
    """And every other covering grant does: compared one by one."""
    covering = {grant for grant in held if covers(grant, needed)}
    expected = {
        grant
        for grant in covering
        if not any(other != grant and covers(grant, other) for other in covering)
    }
    assert expected == set(narrowest(held, needed))


def test_permissions_of_all_combinations_are_bounded() -> None:
    """The grants of a combination of a hundred are found before there are many such."""
    asked = AskedPermissions()
    for number in range(20):
        combination = tuple(f"orders.a{number}.b{index}:read" for index in range(100))
        asked.note(combination, ("orders.*:read",))
        assert sum(map(len, asked.others)) <= PERMISSIONS_MAX + len(combination)
    assert {"orders.*:read"} == set(asked.used)


def test_asked_permissions_are_bounded() -> None:
    """However many combinations are asked for, their grants are kept."""
    asked, held = AskedPermissions(), ("orders.*:read", "billing:read", "orders.1:read")
    for number in range(10 * COMBINATIONS_MAX):
        asked.note((f"orders.{number}:read", "shipping:read"), held)
        assert len(asked.others) <= COMBINATIONS_MAX + 1
    taken = asked.take()
    taken.resolve(held)
    assert {"orders.*:read", "orders.1:read"} == taken.used
    asked.resolve(held)
    assert set() == set(asked.used)
