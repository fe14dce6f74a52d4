"""The closed list of rights: policy, documentation and wildcards."""

from __future__ import annotations

import re

import pytest

from keyauthority_server.rights import NOT_A_RIGHT, RIGHTS, is_right, not_rights
from keyauthority_server.rpc.policy import POLICY
from tests.contract.documents import ROOT

PAGE = (ROOT / "docs/operator-rights.md").read_text(encoding="utf-8")


def test_rights_are_exactly_those_of_the_rpcs() -> None:
    """No RPC needs an unlisted right, and each listed right is needed."""
    needed = {right for row in POLICY.values() for right in row.rights}
    assert needed == set(RIGHTS)
    assert sorted(RIGHTS) == list(RIGHTS)


def test_documentation_lists_each_right_with_its_rpcs() -> None:
    """One row for each right, with each RPC that needs it."""
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
def test_grant_is_a_right_if_it_covers_one(grant: str, expected: bool) -> None:
    """Wildcards work as in grants; a grant that allows nothing is no right."""
    assert expected is is_right(grant)


def test_list_of_rights_appears_once_in_an_error() -> None:
    """Ten invalid entries must fit into the trailers that clients accept."""
    found = list(not_rights(["keys:read", "a:b", "c:d"]))
    assert [(1, NOT_A_RIGHT), (2, "not a right of operators")] == found
    assert all(right in NOT_A_RIGHT for right in RIGHTS)
