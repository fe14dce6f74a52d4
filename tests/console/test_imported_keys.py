"""The page of a key that came from another system says so."""

from __future__ import annotations

import hashlib

import pytest

from keyauthority import Client, ImportedKey, ImportScheme, ImportSet
from keyauthority.model import KeyKind, KeyMode
from tests.console.people import Person, readable

pytestmark = pytest.mark.xdist_group("console")


def test_page_of_an_imported_key_names_its_set_and_foreign_id(
    person: Person, client: Client, project_id: str
) -> None:
    """Both are texts of others, and are escaped."""
    wanted = ImportSet(
        name="console-test",
        scheme=ImportScheme.SHA256_HEX,
        token_prefix="console_",
        token_length_min=20,
        token_length_max=20,
    )
    key = ImportedKey(
        digest=hashlib.sha256(b"console_123456789012").hexdigest(),
        foreign_id="<b>row 7</b>",
        project_id=project_id,
        mode=KeyMode.LIVE,
        kind=KeyKind.SECRET,
    )
    (result,) = client.import_keys(wanted, [key]).results
    page = person.get(f"/keys/{result.access_key}").text
    assert "Imported with console-test from <b>row 7</b>" in readable(page)
    assert "<b>row 7" not in page
