"""Injection payloads are plain text in every field of every request."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Final

import pytest

from tests.conftest import one_server
from tests.faults.fields import Path, empty, text_fields, with_value
from tests.faults.fuzz import fault_in
from tests.faults.test_tenants import OWN, of
from tests.service.callers import Caller, get_key, new_key, new_project
from tests.service.processes import ServerProcess

PAYLOADS: Final = {
    "SQL": "'; DROP TABLE key; --",
    "SQL that is always true": "x' OR '1'='1",
    "SQL in a number's place": "1); DELETE FROM project; --",
    "shell": "$(touch pwned); `id` | cat && true #",
    "format of C": "%s%s%n%x%99999999d",
    "format of Python": "{0.__class__.__mro__}{self}",
    "look-up in a log": "${jndi:ldap://127.0.0.1/a}",
    "template": "{{7*7}}<%= 7*7 %>#{7*7}",
    "markup": "<script>alert(1)</script>",
    "path": "../../../../etc/passwd",
    "pickle": "cos\nsystem\n(S'id'\ntR.",
    "JSON": '","disabled":false,"x":"',
    "NUL": "key\0key",
    "pattern": "(a+)+$" + "a" * 60,
    "wildcards": "%_*?[!a]",
}

SCHEMA: Final = "SELECT type, name, sql FROM sqlite_master ORDER BY name"
COUNTS: Final = "SELECT (SELECT count(*) FROM key), (SELECT count(*) FROM project)"

ENDS_THE_KEY: Final = frozenset({"RotateKey", "RevokeKey"})

PLACES: Final = [(name, path) for name in OWN for path in text_fields(empty(name.split()[0]))]


def harmless(payload: str) -> str:
    """A text of the same shape, of which every letter and sign is an x."""
    return "".join(one if one in " *\n\0" else "x" for one in payload)


def asked(server: ServerProcess, statement: str) -> list[Any]:
    """The content of the database, read from its file."""
    path = server.data / "keyauthority.db"
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
        return database.execute(statement).fetchall()


def ends(root: Caller, name: str, path: Path) -> Iterator[tuple[str, str, str, str]]:
    """For each payload: the status with it and with a harmless text, and the visible details."""
    method = name.split()[0]
    project = new_project(root)
    made = new_key(root, project)
    for payload in PAYLOADS.values():
        codes, told = [], ""
        for text in (harmless(payload), payload):
            request = with_value(OWN[name](project, made), path, text)
            refused = root.outcome(method, request.SerializeToString())
            codes.append(refused.code.name if refused else "OK")
            told = f"{refused.details} {refused.status.decode('latin-1')}" if refused else ""
            if method in ENDS_THE_KEY and refused is None:
                made = new_key(root, project)
        yield payload, codes[1], codes[0], told


@one_server
@pytest.mark.parametrize("name", OWN)
def test_injection_payload_is_handled_as_plain_text(root: Caller, name: str) -> None:
    """It is stored or rejected as text, and never executed, formatted or looked up."""
    wrong = []
    for path in (path for one, path in PLACES if one == name):
        for payload, got, calm, told in ends(root, name, path):
            if got not in (calm, "INVALID_ARGUMENT") or (told and fault_in(got, told)):
                wrong.append((path, payload, got, calm, told))
    assert [] == wrong


@one_server
def test_database_holds_exactly_the_requested_records(server: ServerProcess, root: Caller) -> None:
    """The schema is unchanged; each created record added one row."""
    schema, ((keys, projects),) = asked(server, SCHEMA), asked(server, COUNTS)
    bystander = new_project(root)
    new_key(root, bystander, purpose="stays")
    before, made = of(root, bystander), 0
    for payload in PAYLOADS.values():
        project = new_project(root)
        text = payload.replace("\0", "").replace("\n", "")
        key = new_key(root, project, purpose=text, labels={text[:63]: text}).key
        kept = get_key(root, key.access_key)
        assert (text, {text[:63]: text}) == (kept.purpose, dict(kept.labels))
        made += 1
    assert before == of(root, bystander)
    assert schema == asked(server, SCHEMA)
    assert [(keys + made + 1, projects + made + 1)] == asked(server, COUNTS)
