"""The closed list of rights: the policy's, the page's, and what stands for them."""

from __future__ import annotations

import re

import pytest

from keyauthority_server.rights import NOT_A_RIGHT, RIGHTS, is_right, not_rights
from keyauthority_server.rpc.policy import POLICY
from tests.contract.documents import ROOT

RESERVED = {"keys:import"}  # of an RPC that does not exist yet
PAGE = (ROOT / "docs/operator-rights.md").read_text(encoding="utf-8")


def test_rights_are_those_that_the_rpcs_need() -> None:
    """No RPC needs another, and none is listed that no RPC needs."""
    needed = {right for row in POLICY.values() for right in row.rights}
    assert needed | RESERVED == set(RIGHTS)
    assert sorted(RIGHTS) == list(RIGHTS)


def test_page_names_each_right_once_with_its_rpcs() -> None:
    """A row for each right; what it allows names each RPC that needs it."""
    rows = dict(re.findall(r"^\| `([a-z]+:[a-z]+)` \| (.+) \|$", PAGE, re.MULTILINE))
    assert set(RIGHTS) == rows.keys()
    for method, row in POLICY.items():
        for right in row.rights:
            assert method.rpartition(".")[2] in rows[right], right


@pytest.mark.parametrize(
    ("grant", "expected"),
    [
        *((right, True) for right in RIGHTS),
        ("keys:*", True),
        ("*:read", True),
        ("*:*", True),
        ("keys:nonsense", False),
        ("keys:verfy", False),
        ("keys:write", False),
        ("nonsense:*", False),
        ("*:write", False),
        ("keys.*:read", False),
        ("orders:read", False),
    ],
)
def test_grant_is_a_right_if_it_stands_for_one(grant: str, expected: bool) -> None:
    """Wildcards as in grants; a grant that allows nothing is none."""
    assert expected is is_right(grant)


def test_list_of_rights_is_told_once() -> None:
    """Ten bad entries must fit into the trailers that clients accept."""
    found = list(not_rights(["keys:read", "a:b", "c:d"]))
    assert [(1, NOT_A_RIGHT), (2, "not a right of operators")] == found
    assert all(right in NOT_A_RIGHT for right in RIGHTS)
