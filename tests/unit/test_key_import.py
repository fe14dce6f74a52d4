"""Import of keys: transactions are short, since RevokeKey waits for them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from keyauthority.model import ImportScheme, ImportSet, KeyKind, KeyMode
from keyauthority.requests import ImportedKey
from keyauthority.weight import weight_of
from keyauthority_server.keyring import Keyring
from keyauthority_server.services import key_import
from keyauthority_server.services.key_import import KEYS_AT_ONCE, WEIGHT_AT_ONCE, KeyImport
from keyauthority_server.services.principal import Principal
from keyauthority_server.store.sql.queries import imports
from tests.store.factories import NOON, key, operator

IMPORT_SET = ImportSet(
    name="old", scheme=ImportScheme.SHA256_HEX, token_length_min=10, token_length_max=20
)
LONG = tuple(f"{number:0500}:read" for number in range(100))
MOST_LONG = WEIGHT_AT_ONCE // weight_of(key("a project", permissions=LONG)) + 1


def item(number: int, permissions: tuple[str, ...]) -> ImportedKey:
    """Return a key to import."""
    return ImportedKey(
        digest=hashlib.sha256(b"%d" % number).hexdigest(),
        project_id="a project",
        mode=KeyMode.LIVE,
        kind=KeyKind.RESTRICTED,
        permissions=permissions,
    )


@pytest.mark.parametrize(
    ("permissions", "number", "most"),
    [(("orders:read",), KEYS_AT_ONCE + 1, KEYS_AT_ONCE), (LONG, 40, MOST_LONG)],
    ids=["usual", "long"],
)
async def test_transaction_of_an_import_is_bounded_by_the_weight_of_its_keys(
    monkeypatch: pytest.MonkeyPatch, permissions: tuple[str, ...], number: int, most: int
) -> None:
    """A hundred keys of 40 KB took half a second; each item has one result, in order."""
    transactions: list[int] = []

    async def mutate(_: Any, __: str, work: Callable[..., Any]) -> Any:
        made = Mock()
        found: dict[Any, Any] = {imports.find_imported: {}, imports.import_sets: ()}
        transaction = Mock(head=1, query=lambda read, *_: found[read], apply=made)
        result = work(transaction, Principal(operator(), "peer"), NOON)
        transactions.append(made.call_count)
        return result

    monkeypatch.setattr(key_import, "pepper_version", lambda *_: 1)
    monkeypatch.setattr(key_import, "unused_access_key", lambda _, access_key: access_key)
    context = Mock(mutate=mutate, peppers=Keyring(Path("pepper"), {1: bytes(32)}))
    items = [item(index, permissions) for index in range(number)]
    done = await KeyImport(context).run(Mock(), IMPORT_SET, items, validate_only=False)
    assert number == len({result.access_key for result in done.results}) == sum(transactions)
    assert most == max(transactions)
