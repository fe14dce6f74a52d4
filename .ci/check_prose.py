"""Holds prose to plain technical English; prints each rule that is broken more often than allowed.

It reads docstrings, comments, command help, Markdown and proto comments, generated stubs excepted.
Each rule has a bound, which may be lowered and never raised. `check_prose.py RULE` lists the places
of a rule. Exits 1 if a bound is exceeded.
"""

from __future__ import annotations

import ast
import io
import re
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent
GENERATED: Final = "v1"  # folder of generated modules
PYTHON_FOLDERS: Final = ("client", "server", "tests", "benchmarks", "examples", ".ci")


class Text(NamedTuple):
    """A docstring, a comment, a help text, or a Markdown file without its code blocks."""

    path: Path
    line: int
    content: str
    is_docstring: bool = False


class Rule(NamedTuple):
    """A pattern to avoid, and the number of places allowed to have it."""

    pattern: re.Pattern[str]
    bound: float
    docstrings_only: bool = False
    per_1000_words: bool = False


def words(*alternatives: str) -> re.Pattern[str]:
    """Return a pattern for any of these words, in either case; spaces match line breaks."""
    joined = "|".join(alternatives).replace(" ", r"\s+")
    return re.compile(rf"\b(?:{joined})\b", re.IGNORECASE)


# Lower a bound when its count has fallen; never raise one.
RULES: Final = {
    "he": Rule(words("he", "his", "him", "himself"), 0),
    "worn": Rule(
        words(
            *("anew", "no more(?! than)", "nobody", "is (?-i:none)", "be it", "but for", "besides"),
            *("told", "mend(?:s|ed)?", "vouch(?:es|ed)?", "of the process's own"),
        ),
        25,
    ),
    "opening": Rule(re.compile(r"\A\s*(?:What|Who|How an?|Where)\b"), 3, docstrings_only=True),
    "what": Rule(words("what", "whatever", "whoever"), 0.5, per_1000_words=True),
}


def read_python(path: Path, source: str) -> Iterator[Text]:
    """Yield docstrings, help texts, and comments, of which adjacent lines are one text."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Expr(value=ast.Constant(value=str(content), lineno=line)):
                yield Text(path, line, content, is_docstring=True)
            case ast.keyword(arg="help", value=ast.Constant(value=str(content), lineno=line)):
                yield Text(path, line, content)
            case _:
                pass
    comments = [
        (token.start[0], token.string.removeprefix("#"))
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    ]
    yield from _joined(path, comments)


def read_proto(path: Path, source: str) -> Iterator[Text]:
    """Yield comments, of which adjacent lines are one text."""
    comments = [
        (number, found[1])
        for number, line in enumerate(source.splitlines(), start=1)
        if (found := re.search(r"//(.*)", line))
    ]
    yield from _joined(path, comments)


def read_markdown(path: Path, source: str) -> Iterator[Text]:
    """Yield the file with its fenced code blocks blanked, so that line numbers stay."""
    yield Text(path, 1, re.sub(r"^```.*?^```$", _blank, source, flags=re.DOTALL | re.MULTILINE))


def _blank(block: re.Match[str]) -> str:
    return "\n" * block[0].count("\n")


def _joined(path: Path, comments: list[tuple[int, str]]) -> Iterator[Text]:
    start = 0
    for index, (line, _) in enumerate(comments):
        if index + 1 == len(comments) or comments[index + 1][0] != line + 1:
            group = comments[start : index + 1]
            yield Text(path, group[0][0], "\n".join(content for _, content in group))
            start = index + 1


def texts() -> Iterator[Text]:
    """Yield all prose of the project."""
    for folder in PYTHON_FOLDERS:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if path.parent.name != GENERATED:
                yield from read_python(path, path.read_text(encoding="utf-8"))
    for path in sorted((ROOT / "protos").rglob("*.proto")):
        yield from read_proto(path, path.read_text(encoding="utf-8"))
    for path in (*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))):
        yield from read_markdown(path, path.read_text(encoding="utf-8"))


def places(rule: Rule, prose: list[Text]) -> list[str]:
    """Return `file:line: match` for each place that has the rule's pattern."""
    return [
        f"{text.path}:{text.line + text.content.count(chr(10), 0, found.start())}: {found[0]!r}"
        for text in prose
        if text.is_docstring or not rule.docstrings_only
        for found in rule.pattern.finditer(text.content)
    ]


def check(rules: dict[str, Rule], prose: list[Text]) -> list[str]:
    """Return a line for each rule whose count exceeds its bound."""
    total = sum(len(text.content.split()) for text in prose)
    failures = []
    for name, rule in rules.items():
        count: float = len(places(rule, prose))
        if rule.per_1000_words:
            count = round(1000 * count / total, 1) if total else 0
        if count > rule.bound:
            unit = " per 1,000 words" if rule.per_1000_words else ""
            failures.append(
                f"{name}: {count}{unit}, at most {rule.bound} allowed; list the places with "
                f"`python .ci/check_prose.py {name}`"
            )
    return failures


def main(arguments: list[str]) -> int:
    """Print the places of the rules named, or each bound exceeded; return the exit status."""
    prose = list(texts())
    if arguments:
        for name in arguments:
            print(*places(RULES[name], prose), sep="\n")
        return 0
    failures = check(RULES, prose)
    print(*failures, sep="\n", end="\n" if failures else "")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
