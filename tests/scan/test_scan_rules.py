"""Rule files for other scanners find the tokens and no other text."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from keyauthority.cli.app import run
from keyauthority.model import KeyKind
from keyauthority.scan import RULES
from tests.scan.samples import near_misses, new_token

ROOT = Path(__file__).parents[2]


def expression(scanner: str) -> str:
    """Return the regular expression of a rule."""
    if scanner == "detect-secrets":
        return str(re.findall(r're\.compile\(r"(.*)", re\.ASCII\)', RULES[scanner])[0])
    if scanner == "trufflehog":
        return str(re.findall(r"token: '(.*)'", RULES[scanner])[0])
    (rule,) = tomllib.loads(RULES[scanner])["rules"]
    return str(rule["regex"])


@pytest.mark.parametrize("scanner", RULES)
def test_expression_matches_secret_tokens(scanner: str) -> None:
    """Every kind that is a secret, with and without prefix; no syntax that RE2 lacks."""
    pattern = re.compile(expression(scanner), re.ASCII)
    for kind in (KeyKind.SECRET, KeyKind.RESTRICTED, KeyKind.OPERATOR):
        for prefix in ("", "acme"):
            token = new_token(kind, prefix)
            assert [token] == pattern.findall(f'key="{token}"')
    assert pattern.search(new_token(KeyKind.PUBLISHABLE)) is None
    assert re.search(r"\(\?[=!<P]", expression(scanner)) is None


def test_detect_secrets_finds_tokens_and_no_near_misses(tmp_path: Path) -> None:
    """The real scanner, with the plugin as a file."""
    pytest.importorskip("detect_secrets", reason="detect-secrets is not installed")
    plugin, text = tmp_path / "keyauthority_tokens.py", tmp_path / "settings.txt"
    plugin.write_text(RULES["detect-secrets"])
    tokens = [new_token(), new_token(KeyKind.OPERATOR, "acme")]
    misses = near_misses(200, random.Random(1))
    text.write_text("\n".join([*tokens, *misses]))
    ended = subprocess.run(
        [
            *(
                sys.executable,
                "-m",
                "detect_secrets",
                "scan",
                "--no-verify",
                "--plugin",
                str(plugin),
            ),
            *("--disable-filter", "detect_secrets.filters.heuristic.is_likely_id_string"),
            str(text),
        ],
        capture_output=True,
        check=True,
        text=True,
        cwd=tmp_path,
    )
    found = [
        one["line_number"]
        for results in json.loads(ended.stdout)["results"].values()
        for one in results
        if one["type"] == "Key Authority token"
    ]
    assert [1, 2] == found


def test_pre_commit_hook_takes_no_file_for_an_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit of a file named as an option still shows its tokens."""
    (tmp_path / "leak").write_text(new_token())
    (tmp_path / "--rules=gitleaks").touch()
    monkeypatch.chdir(tmp_path)
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8"))
    command = [*hook["entry"].split()[1:], *hook["args"]]
    assert 1 == run([*command, "--rules=gitleaks", "leak"])


def test_pre_commit_hook_runs_the_command() -> None:
    """The hook of the repository names the command and the packages of the extra `cli`."""
    text = (ROOT / ".pre-commit-hooks.yaml").read_text(encoding="utf-8")
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (hook,) = yaml.safe_load(text)
    assert "keyauthority scan" == hook["entry"]
    for requirement in extra["project"]["optional-dependencies"]["cli"]:
        assert f'"{requirement}"' in text
