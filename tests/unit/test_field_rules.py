"""Descriptions of malformed fields name the right form."""

from __future__ import annotations

from keyauthority_server.rpc.field_rules import Validator


def test_malformed_permission_or_project_is_described_by_its_form() -> None:
    """A caller who wrote a word or a name sees the expected form."""
    check = Validator()
    check.grants("permissions", ["orders:read", "orders"])
    check.needed("permissions", ["orders:*"])
    check.project_id("project_id", "Shop")
    form = "not RESOURCE:ACTION, such as orders:read"
    assert [
        ("permissions[1]", form),
        ("permissions[0]", form),
        ("project_id", "not a project ID, which is a UUID in lower case"),
    ] == check.violations
