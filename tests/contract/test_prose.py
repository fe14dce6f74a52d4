"""The prose check counts every kind of text, and fails once a count exceeds its bound."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Final

import pytest

from tests.contract.documents import ROOT

HERE: Final = Path("here.py")
PYTHON: Final = '''"""What a caller sends."""
x = "told"  # the caller keeps his
# secret, and nobody
option("--y", help="Made anew.")
'''


@pytest.fixture(scope="module")
def prose() -> Iterator[ModuleType]:
    """The module that `make check` runs."""
    spec = importlib.util.spec_from_file_location("check_prose", ROOT / ".ci/check_prose.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("he", ["here.py:2: 'his'"]),
        ("worn", ["here.py:3: 'nobody'", "here.py:4: 'anew'"]),
        ("opening", ["here.py:1: 'What'"]),
        ("what", ["here.py:1: 'What'"]),
    ],
)
def test_places_of_each_rule_are_found_with_their_lines(
    prose: ModuleType, rule: str, expected: list[str]
) -> None:
    """Each match is reported with its file and line."""
    texts = list(prose.read_python(HERE, PYTHON))
    assert sorted(expected) == sorted(prose.places(prose.RULES[rule], texts))


def test_phrase_across_a_line_break_is_found_and_code_in_markdown_is_not(
    prose: ModuleType,
) -> None:
    """Adjacent comment lines are one text; fenced code is skipped."""
    proto = list(prose.read_proto(HERE, "// The answer is\n// none.\nstring x = 1;\n"))
    assert len(prose.places(prose.RULES["worn"], proto)) == 1
    markdown = list(prose.read_markdown(HERE, "```\ntold\n```\nand told\n"))
    assert prose.places(prose.RULES["worn"], markdown) == ["here.py:4: 'told'"]


def test_count_above_its_bound_fails_and_at_its_bound_passes(prose: ModuleType) -> None:
    """A count fails only above its bound."""
    texts = list(prose.read_python(HERE, PYTHON))
    rules = {name: rule._replace(bound=5) for name, rule in prose.RULES.items() if name != "what"}
    assert prose.check(rules, texts) == []
    lowered = rules | {"worn": rules["worn"]._replace(bound=1)}
    assert [line.split(":")[0] for line in prose.check(lowered, texts)] == ["worn"]


def test_frequency_above_its_bound_fails(prose: ModuleType) -> None:
    """A count per 1,000 words fails only above its bound."""
    texts = list(prose.read_python(HERE, PYTHON))
    rule = prose.RULES["what"]
    assert prose.check({"what": rule._replace(bound=2)}, texts) != []
    assert prose.check({"what": rule._replace(bound=1000)}, texts) == []
