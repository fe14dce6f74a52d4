"""The project's own lint rules: breaches are found, compliant code is not reported."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

from tests.contract.documents import ROOT

COMPARED: Final = "compare secrets with hmac.compare_digest"
FORMATTED: Final = "no SQL is built by formatting; pass values as parameters"
ELSEWHERE: Final = "SQL is written in store/ only"

BREACHES: Final = {
    "held.digest == digest": COMPARED,
    "a if mac != other else b": COMPARED,
    "token == given": COMPARED,
    "secret_key(1) == text": COMPARED,
    "row['digest'] == made": COMPARED,
    "x == operator_key": COMPARED,
    "connection.execute(f'SELECT {column} FROM key')": FORMATTED,
    "connection.execute('SELECT 1 FROM key WHERE x = ' + value)": FORMATTED,
    "connection.executemany('DELETE FROM %s' % table, rows)": FORMATTED,
    "rows.execute('UPDATE {} SET x = 1'.format(table))": FORMATTED,
    "'SELECT a FROM b'": ELSEWHERE,
    "'delete_all', 'DELETE FROM key'": ELSEWHERE,
    "'PRAGMA journal_mode'": ELSEWHERE,
}
KEPT: Final = (
    "hmac.compare_digest(held.digest, digest)",
    "token is None",
    "digest == b''",
    "secret_name == other",
    "'Select a project from the list'",
    "rows.execute(LOOK, (access_key,))",
)


@pytest.fixture(scope="module")
def rules() -> ModuleType:
    """The module that `make check` runs."""
    spec = importlib.util.spec_from_file_location("check_rules", ROOT / ".ci/check_rules.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def found(rules: ModuleType, source: str, path: Path) -> set[str]:
    """The rules that a piece of code breaks."""
    return {rule for node in ast.walk(ast.parse(source)) if (rule := rules.breach(node, path))}


@pytest.mark.parametrize("source", BREACHES)
def test_breach_is_reported(rules: ModuleType, source: str) -> None:
    """A secret compared with ==, formatted SQL, SQL outside of the store."""
    assert BREACHES[source] in found(rules, source, rules.ROOT / "server/some.py")


@pytest.mark.parametrize("source", KEPT)
def test_compliant_code_is_not_reported(rules: ModuleType, source: str) -> None:
    """Constant-time comparison, constants, words that resemble SQL."""
    assert set() == found(rules, source, rules.ROOT / "server/some.py")


def test_store_may_contain_sql(rules: ModuleType) -> None:
    """In its own folder, but not by formatting."""
    path = rules.STORE / "some.py"
    assert set() == found(rules, "'SELECT a FROM b'", path)
    assert {FORMATTED} == found(rules, "x.execute('SELECT ' + a)", path)
