"""`keyauthority keys import`: tables with the columns that each source has."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
from pathlib import Path
from typing import Any

import pytest

import keyauthority
from keyauthority.cli.import_sources import SOURCES, Unusable
from keyauthority.model import Quota, QuotaPeriod
from tests.service.callers import absent_project
from tests.service.import_command import command, project_id, server, table
from tests.service.processes import Command

__all__ = ["command", "project_id", "server"]

pytestmark = pytest.mark.xdist_group("imports")


def unkey_row(token: str, **columns: Any) -> dict[str, Any]:
    """A row of Unkey's table `keys`."""
    digest = base64.b64encode(hashlib.sha256(token.encode()).digest()).decode()
    return {
        "id": "key_1",
        "hash": digest,
        "start": token[:8],
        "name": "nightly export",
        "owner_id": "user_7",
        "expires": "NULL",
        "enabled": "1",
        "deleted_at": "",
        "ratelimit_limit": "10",
        "ratelimit_duration": "60000",
        "remaining": "",
        **columns,
    }


def drf_row(token: str, **columns: Any) -> dict[str, Any]:
    """A row of djangorestframework-api-key's table, version 3."""
    prefix = token.partition(".")[0]
    return {
        "id": f"{prefix}.x",
        "prefix": prefix,
        "hashed_key": "sha512$$" + hashlib.sha512(token.encode()).hexdigest(),
        "name": "nightly export",
        "created": "2024-01-02 03:04:05.678+00:00",
        "expiry_date": "",
        "revoked": "f",
        **columns,
    }


def better_auth_row(token: str, **columns: Any) -> dict[str, Any]:
    """A row of better-auth's table `apikey`."""
    digest = base64.urlsafe_b64encode(hashlib.sha256(token.encode()).digest()).decode()
    return {
        "id": "a1",
        "name": "nightly export",
        "start": token[:6],
        "key": digest.rstrip("="),
        "userId": "u7",
        "enabled": True,
        "rateLimitEnabled": True,
        "rateLimitTimeWindow": 86400000,
        "rateLimitMax": 10,
        "remaining": None,
        "expiresAt": "2031-01-02T03:04:05.000Z",
        "permissions": json.dumps({"orders": ["read", "write"]}),
        **columns,
    }


def litellm_row(token: str, **columns: Any) -> dict[str, Any]:
    """A row of LiteLLM's table `LiteLLM_VerificationToken`."""
    return {
        "token": hashlib.sha256(token.encode()).hexdigest(),
        "key_name": f"sk-...{token[-4:]}",
        "key_alias": "nightly export",
        "expires": None,
        "user_id": "u7",
        "team_id": None,
        "rpm_limit": 10,
        "blocked": None,
        **columns,
    }


def test_unkey_table_is_imported(
    command: Command, client: keyauthority.Client, project_id: str, tmp_path: Path
) -> None:
    """Name, owner and limit are taken over; disabled and deleted keys are refused by line."""
    tokens = [f"acme_{secrets.token_hex(12)}" for _ in range(4)]
    rows = [
        unkey_row(tokens[0]),
        unkey_row(tokens[1], enabled="0"),
        unkey_row(tokens[2], deleted_at="2024-01-02 03:04:05"),
        unkey_row(tokens[3], hash="AAAA"),
    ]
    file = table(tmp_path / "keys.csv", rows)
    flags = ("--project-id", project_id, "--mode", "live", "--kind", "secret")
    ended = command(file, "--from", "unkey", "--import-set", "unkey", *flags, "--json")
    report = json.loads(ended.output)
    assert (1, 1, 0) == (ended.code, report["imported"], report["repeated"])
    assert [3, 4, 5] == [refusal["line"] for refusal in report["refused"]]
    assert "AAAA" not in ended.output
    verdict = client.verify(tokens[0], include_record=True)
    assert verdict.valid
    assert verdict.key is not None
    assert ("nightly export", "key_1", {"owner": "user_7"}, 10) == (
        verdict.key.purpose,
        verdict.key.foreign_id,
        dict(verdict.key.labels),
        verdict.key.rate_limit and verdict.key.rate_limit.limit,
    )
    assert ["malformed", "unknown"] == [client.verify(text).code for text in ("x", tokens[1])]


@pytest.mark.parametrize(
    ("row", "source", "quota"),
    [
        (unkey_row("a", remaining_requests="7"), "unkey", Quota(7, QuotaPeriod.TOTAL)),
        (unkey_row("a", remaining="7", refill_amount="9"), "unkey", Quota(9, QuotaPeriod.DAY)),
        (
            unkey_row("a", remaining="7", refill_amount="9", refill_day="31"),
            *("unkey", Quota(9, QuotaPeriod.MONTH)),
        ),
        (
            unkey_row("a", remaining="7", refill_amount="9", refill_interval="monthly"),
            *("unkey", Quota(9, QuotaPeriod.MONTH)),
        ),
        (better_auth_row("a", remaining=7), "better-auth", Quota(7, QuotaPeriod.TOTAL)),
        (
            better_auth_row("a", remaining=7, refillAmount=9, refillInterval=86_400_000),
            *("better-auth", Quota(9, QuotaPeriod.DAY)),
        ),
    ],
)
def test_renewed_quota_stays_renewed(row: dict[str, Any], source: str, quota: Quota) -> None:
    """Its remaining units alone would end the key."""
    assert quota == SOURCES[source].read(row).quota


def test_quota_renewed_at_another_interval_is_refused() -> None:
    """better-auth renews after any number of milliseconds."""
    row = better_auth_row("a", remaining=7, refillAmount=9, refillInterval=3_600_000)
    with pytest.raises(Unusable, match=r"refillInterval: .* not 3600000 ms"):
        SOURCES["better-auth"].read(row)


def test_drf_table_is_imported_twice_as_one(
    command: Command, client: keyauthority.Client, project_id: str, tmp_path: Path
) -> None:
    """Older hashes and revoked keys are refused; the second run repeats the first."""
    tokens = [f"{secrets.token_hex(4)}.{secrets.token_hex(16)}" for _ in range(3)]
    rows = [
        drf_row(tokens[0]),
        drf_row(tokens[1], revoked="t"),
        drf_row(tokens[2], hashed_key="pbkdf2_sha256$600000$salt$hash"),
    ]
    arguments = (table(tmp_path / "keys.csv", rows), "--from", "drf", "--import-set", "drf")
    flags = ("--project-id", project_id, "--mode", "test", "--kind", "secret")
    first, second = command(*arguments, *flags), command(*arguments, *flags)
    assert "1 imported, 0 repeated, 2 refused\n" == first.log
    assert "0 imported, 1 repeated, 2 refused\n" == second.log
    assert "4\tunusable\thashed_key: pbkdf2_sha256, not sha512$$" in first.output
    assert client.verify(tokens[0]).valid


def test_better_auth_rows_with_permissions_become_restricted_keys(
    command: Command, client: keyauthority.Client, project_id: str, tmp_path: Path
) -> None:
    """A JSON array, as an adapter exports it."""
    tokens = [secrets.token_hex(32) for _ in range(2)]
    rows = [better_auth_row(tokens[0]), better_auth_row(tokens[1], permissions=None)]
    (tmp_path / "apikey.json").write_text(json.dumps(rows))
    ended = command(
        *(str(tmp_path / "apikey.json"), "--from", "better-auth", "--import-set", "better-auth"),
        *("--project-id", project_id, "--mode", "live", "--kind", "secret"),
    )
    assert (0, "2 imported, 0 repeated, 0 refused\n") == (ended.code, ended.log)
    first, second = (client.verify(token, permissions=["orders:read"]) for token in tokens)
    assert ("restricted", "secret") == (first.kind, second.kind)
    assert (True, True) == (first.valid, second.valid)
    assert "missing_permission" == client.verify(tokens[0], permissions=["a:b"]).code


@pytest.mark.parametrize(
    "permissions", [{}, {"files": []}, '{"files": []}', {"files": "read"}, [], "[]"]
)
def test_better_auth_key_whose_permissions_grant_nothing_is_refused(permissions: Any) -> None:
    """As a key of kind SECRET it would hold every permission."""
    with pytest.raises(Unusable, match="permissions"):
        SOURCES["better-auth"].read(better_auth_row("a", permissions=permissions))


def test_litellm_lines_are_imported(
    command: Command, client: keyauthority.Client, project_id: str, tmp_path: Path
) -> None:
    """JSON lines; a blocked key is refused."""
    tokens = [f"sk-{secrets.token_urlsafe(16)}" for _ in range(2)]
    rows = [litellm_row(tokens[0]), litellm_row(tokens[1], blocked=True)]
    (tmp_path / "keys.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\nnot json\n")
    ended = command(
        *(str(tmp_path / "keys.jsonl"), "--from", "litellm", "--import-set", "litellm"),
        *("--project-id", project_id, "--mode", "live", "--kind", "secret"),
    )
    assert (1, "1 imported, 0 repeated, 2 refused\n") == (ended.code, ended.log)
    assert [["2"], ["3"]] == [line.split("\t")[:1] for line in ended.output.splitlines()[1:]]
    assert client.verify(tokens[0]).valid


def test_own_format_takes_the_field_names_of_imported_keys(
    command: Command, client: keyauthority.Client, project_id: str, tmp_path: Path
) -> None:
    """Everything that a key can have, in CSV and JSON; a row without a value takes the option."""
    tokens = [f"old_{secrets.token_hex(16)}" for _ in range(2)]
    fields: list[dict[str, Any]] = [
        {
            "digest": hashlib.sha256(token.encode()).hexdigest(),
            "foreign_id": "7",
            "project_id": project_id,
            "mode": "test",
            "kind": "restricted",
            "purpose": "nightly export",
            "permissions": ["orders:read"],
            "restrictions": {"allowed_ips": ["10.0.0.0/8"]},
            "expire_time": "2031-01-01T00:00:00Z",
            "rate_limit": {"limit": 10, "period": "60s"},
            "quota": {"limit": 5, "period": "QUOTA_PERIOD_DAY"},
            "labels": {"team": "billing"},
        }
        for token in tokens
    ]
    (tmp_path / "keys.jsonl").write_text(json.dumps(fields[0]))
    flat = {
        name: json.dumps(value) if isinstance(value, dict | list) else value
        for name, value in fields[1].items()
    }
    shape = ("--scheme", "sha256_hex", "--token-prefix", "old_")
    lengths = ("--token-length-min", "36", "--token-length-max", "36")
    for source, file in (
        ("jsonl", str(tmp_path / "keys.jsonl")),
        ("csv", table(tmp_path / "keys.csv", [flat])),
    ):
        ended = command(file, "--from", source, "--import-set", "own", *shape, *lengths)
        assert (0, "1 imported, 0 repeated, 0 refused\n") == (ended.code, ended.log)
    one, other = (client.lookup_key(token).key for token in tokens)
    assert [] == [
        name
        for name in ("purpose", "permissions", "restrictions", "rate_limit", "quota", "labels")
        if getattr(one, name) != getattr(other, name) or not getattr(one, name)
    ]
    facts: dict[str, Any] = {"permissions": ["orders:read"], "client_ip": "10.0.0.1"}
    assert client.verify(tokens[0], **facts).valid


def test_row_that_cannot_be_read_leaves_the_others(
    command: Command, client: keyauthority.Client, project_id: str, tmp_path: Path
) -> None:
    """Half a character, deep objects, repeated members and huge numbers are refused by line."""
    token = f"old_{secrets.token_hex(12)}"
    good = json.dumps({"digest": hashlib.sha256(token.encode()).hexdigest()})
    half = '{"digest": "00", "purpose": "\\ud800"}'
    deep = '{"labels":' * 100_000 + "1" + "}" * 100_000
    twice = '{"digest": "00", "digest": "01"}'
    huge = '{"digest": "00", "quota": {"limit": 1e30, "period": "day"}}'
    (tmp_path / "keys.jsonl").write_text("\n".join((half, deep, twice, huge, good)))
    flags = ("--project-id", project_id, "--mode", "live", "--kind", "secret")
    shape = ("--scheme", "sha256_hex", "--token-length-min", "28", "--token-length-max", "28")
    file = str(tmp_path / "keys.jsonl")
    ended = command(file, "--from", "jsonl", "--import-set", "rows", *shape, *flags)
    assert (1, "1 imported, 0 repeated, 4 refused\n") == (ended.code, ended.log)
    lines = [f"{line}\tunusable" for line in (1, 2, 3, 4)]
    assert lines == re.findall(r"^\d+\t\w+", ended.output, re.MULTILINE)
    assert client.verify(token).valid


def test_row_of_another_length_than_the_header_is_refused(
    command: Command, client: keyauthority.Client, project_id: str, tmp_path: Path
) -> None:
    """Its values may be those of other columns."""
    tokens = [f"acme_{secrets.token_hex(12)}" for _ in range(3)]
    file = Path(table(tmp_path / "keys.csv", [unkey_row(token) for token in tokens]))
    header, short, long, good = file.read_text().splitlines()
    file.write_text("\n".join((header, short.rpartition(",")[0], f"{long},1", good)))
    flags = ("--project-id", project_id, "--mode", "live", "--kind", "secret")
    ended = command(str(file), "--from", "unkey", "--import-set", "unkey", *flags)
    assert (1, "1 imported, 0 repeated, 2 refused\n") == (ended.code, ended.log)
    assert 2 == ended.output.count("not as long as the header")
    verdicts = [client.verify(token).code for token in tokens]
    assert ["unknown", "unknown", "valid"] == verdicts


def test_dry_run_writes_nothing(
    command: Command, client: keyauthority.Client, project_id: str, tmp_path: Path
) -> None:
    """It reports what an import would: new, repeated and refused rows."""
    token = f"acme_{secrets.token_hex(12)}"
    rows = [unkey_row(token), unkey_row(token), unkey_row(f"acme_{secrets.token_hex(12)}")]
    file = table(tmp_path / "keys.csv", rows)
    before = client.verify("").revision
    arguments = (file, "--from", "unkey", "--import-set", "unkey", "--mode", "live")
    flags = ("--project-id", project_id, "--kind", "secret", "--dry-run")
    ended = command(*arguments, *flags)
    assert (0, "2 would be imported, 1 repeated, 0 refused\n") == (ended.code, ended.log)
    elsewhere = command(*arguments, *flags, "--project-id", absent_project())
    assert (1, 3) == (elsewhere.code, elsewhere.output.count("project_not_found"))
    assert before == client.verify("").revision


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        ("a,b\n1,2\n", "missing columns: id, hash"),
        ("one line\n", "missing columns: id, hash"),
        ('{"id": "a"}\n', "missing columns: hash"),
        ('[{"hash": "a"}]', "missing columns: id"),
        ("id,hash,id\n1,2,3\n", "repeated columns: id"),
        pytest.param("a" * 200_000, "field larger than field limit", id="long"),
        pytest.param(f"id,hash\n1,2\n{'3' * 200_000},4", "line 2: field larger", id="long later"),
        ("[", "not valid JSON"),
        pytest.param("[" * 100_000, "not valid JSON: nested too deeply", id="deep"),
        ('id,hash\n"', "unexpected end of data"),
        ("\x89PNG\r\n\x1a\n\x00\xff", "can't decode"),
    ],
)
def test_file_of_another_kind_is_one_line_and_exit_code_2(
    command: Command, tmp_path: Path, content: str, message: str
) -> None:
    """Nothing is sent."""
    (tmp_path / "file").write_bytes(content.encode("latin-1"))
    ended = command(str(tmp_path / "file"), "--from", "unkey", "--import-set", "unkey")
    assert (2, 1) == (ended.code, len(ended.log.splitlines()))
    assert message in ended.log


def test_own_format_needs_the_shape_of_its_tokens(command: Command, tmp_path: Path) -> None:
    """The options are named."""
    (tmp_path / "keys.csv").write_text("digest\n00\n")
    ended = command(str(tmp_path / "keys.csv"), "--from", "csv", "--import-set", "own")
    assert 2 == ended.code
    assert "--scheme, --token-length-min and -max" in ended.log
