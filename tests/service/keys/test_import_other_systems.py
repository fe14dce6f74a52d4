"""Tables made by the real libraries: their tokens verify, and their stored hashes do not."""

from __future__ import annotations

import ast
import json
import os
import re
import secrets
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from contextlib import closing
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

import keyauthority
from keyauthority.model import Quota, QuotaPeriod, RateLimit
from tests.service.import_command import command, project_id, server, table
from tests.service.processes import Command

__all__ = ["command", "project_id", "server"]

pytestmark = pytest.mark.xdist_group("imports")

ROOT: Final = Path(__file__).parents[3]
PROGRAMS: Final = ROOT / "tests" / "service" / "other_systems"
INSTALLED: Final = ROOT / ".venv-other-systems"
SECONDS: Final = 60


class Made(NamedTuple):
    """The tokens that a system made, by name, and its table."""

    tokens: Mapping[str, str]
    rows: list[dict[str, Any]]


def required(path: Path | None, name: str) -> Path:
    """Return the path; skip the test without it, or fail where it is required."""
    if path is None or not path.exists():
        message = f"{name} is not installed: `make other-systems`"
        if "OTHER_SYSTEMS_REQUIRED" in os.environ:
            pytest.fail(message)
        pytest.skip(message)
    return path


def output(folder: Path, *arguments: str | Path) -> Any:
    """Run a program of a system; return the JSON that it prints."""
    done = subprocess.run(
        arguments, capture_output=True, check=False, cwd=folder, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def drf_api_key(folder: Path) -> Made:
    """Make keys with djangorestframework-api-key, of the extra dev."""
    if find_spec("rest_framework_api_key") is None:
        pytest.skip("djangorestframework-api-key is not installed")
    tokens = output(folder, sys.executable, PROGRAMS / "drf_api_key.py", folder / "drf.db")
    with closing(sqlite3.connect(folder / "drf.db")) as database:
        database.row_factory = sqlite3.Row
        rows = database.execute("SELECT * FROM rest_framework_api_key_apikey ORDER BY created")
        return Made(tokens, list(map(dict, rows)))


def better_auth(folder: Path) -> Made:
    """Make keys with better-auth."""
    packages = required(INSTALLED / "better-auth" / "node_modules", "better-auth")
    (folder / "node_modules").symlink_to(packages)
    shutil.copy(PROGRAMS / "better_auth.mjs", folder)
    made = output(folder, required(Path(shutil.which("node") or ""), "node"), "better_auth.mjs")
    return Made(made["keys"], made["rows"])


def litellm(folder: Path) -> Made:
    """Make the columns that are imported, by LiteLLM's schema and its hash function."""
    wheel = required(next(INSTALLED.glob("litellm-*.whl"), None), "LiteLLM")
    with zipfile.ZipFile(wheel) as content:
        schema = content.read("litellm/proxy/schema.prisma").decode()
        hashing = content.read("litellm/types/proxy/auth/user_api_key_auth.py").decode()
    (model,) = re.findall(
        r"^model LiteLLM_VerificationToken \{(.+?)^\}", schema, re.MULTILINE | re.DOTALL
    )
    columns = set(re.findall(r"^\s+(\w+)\s+[A-Z]", model, re.MULTILINE))
    (function,) = (
        part
        for part in ast.parse(hashing).body
        if isinstance(part, ast.FunctionDef) and part.name == "hash_token"
    )
    scope: dict[str, Any] = {}
    exec(compile(ast.Module([function], []), str(wheel), "exec"), scope)  # noqa: S102 - of the wheel
    tokens = {name: f"sk-{secrets.token_urlsafe(16)}" for name in ("plain", "limited", "blocked")}
    rows = [
        {
            **dict.fromkeys(columns),
            "token": scope["hash_token"](token),
            "key_name": f"sk-...{token[-4:]}",
            "key_alias": name,
            "blocked": name == "blocked",
            "rpm_limit": 10 if name == "limited" else None,
        }
        for name, token in tokens.items()
    ]
    assert all(set(row) == columns for row in rows)  # so each that is set is a column
    return Made(tokens, rows)


class System(NamedTuple):
    """A system that keys come from."""

    make: Callable[[Path], Made]
    suffix: str
    hash: str
    """The column of the stored hash."""
    ended: str
    """The name of the key that does not work there."""
    name: str
    """The name of a key with more fields, as follows."""
    fields: Mapping[str, Any]


SYSTEMS: Final = {
    "drf": System(
        *(drf_api_key, "csv", "hashed_key", "revoked", "expiring"),
        {"expire_time": datetime(2031, 1, 2, 3, 4, 5, tzinfo=UTC)},
    ),
    "better-auth": System(
        *(better_auth, "json", "key", "disabled", "full"),
        {
            "kind": "restricted",
            "permissions": ("orders:read", "orders:write"),
            "rate_limit": RateLimit(10, timedelta(minutes=1)),
            "quota": Quota(100, QuotaPeriod.DAY),
        },
    ),
    "litellm": System(
        *(litellm, "csv", "token", "blocked", "limited"),
        {"rate_limit": RateLimit(10, timedelta(minutes=1))},
    ),
}


@pytest.mark.parametrize("source", SYSTEMS)
def test_table_of_the_real_library_is_imported(
    source: str, command: Command, client: keyauthority.Client, project_id: str, tmp_path: Path
) -> None:
    """Working tokens verify with their fields, the ended one and every stored hash do not."""
    system = SYSTEMS[source]
    tokens, rows = system.make(tmp_path)
    file = tmp_path / f"table.{system.suffix}"
    if system.suffix == "json":
        file.write_text(json.dumps(rows))
    else:  # a row without a value has an empty cell, as databases write it
        table(file, rows)
    ended = command(
        *(str(file), "--from", source, "--import-set", source),
        *("--project-id", project_id, "--mode", "live", "--kind", "secret"),
    )
    assert (1, f"{len(rows) - 1} imported, 0 repeated, 1 refused\n") == (ended.code, ended.log)
    for name, token in tokens.items():
        verdict = client.verify(token, include_record=True)
        assert (name != system.ended) == verdict.valid
        assert verdict.key is None or name == verdict.key.purpose
    key = client.lookup_key(tokens[system.name]).key
    assert system.fields == {name: getattr(key, name) for name in system.fields}
    for row in rows:
        stored = str(row[system.hash])
        assert not client.verify(stored).valid
        assert not client.verify(stored.rpartition("$")[2]).valid
