"""The command line on a real server: forms of output, positional ids, lists, times, JSON errors."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

import keyauthority
from tests.conftest import Start, one_server
from tests.service.processes import WAIT_SECONDS, Command, ServerProcess, environment, wait_until

pytestmark = one_server


@pytest.fixture
def project_id(client: keyauthority.Client) -> str:
    """A project of the test's own."""
    return client.create_project("formats").project_id


def new_keys(client: keyauthority.Client, project_id: str, count: int) -> list[str]:
    """Make keys; return their access keys, oldest first."""
    return [
        client.create_key(project_id, mode="test", kind="secret", purpose=f"{n}").key.access_key
        for n in range(count)
    ]


def test_one_field_is_printed_by_its_json_name(command: Command, project_id: str) -> None:
    """A secret for a shell variable, a field of the record within, an unset field."""
    create = ("keys", "create", "--project-id", project_id, "--mode", "test", "--kind", "secret")
    secret_key = command(*create, "--field", "secretKey")
    assert (0, "", 1) == (secret_key.code, secret_key.log, secret_key.output.count("\n"))
    verify = ("verify", "--field")
    access_key = command(*verify, "accessKey", stdin=secret_key.output).output.strip()
    assert "true\n" == command(*verify, "valid", stdin=secret_key.output).output
    show = ("keys", "show", access_key, "--field")
    assert f"{access_key}\n" == command(*show, "accessKey").output
    assert f"{access_key}\n" == command(*show, "key.accessKey").output
    assert "\n" == command(*show, "expireTime").output
    refused = command(*show, "nonsense")
    assert 2 == refused.code
    assert "--field: no field nonsense; there are" in refused.log


def test_lists_have_every_form(
    command: Command, client: keyauthority.Client, project_id: str
) -> None:
    """Bare names, CSV with a header, a line of JSON each, a field each."""
    keys = new_keys(client, project_id, 3)
    listing = ("keys", "list", "--project-id", project_id)
    assert keys == command(*listing, "-o", "name").output.split()
    rows = list(csv.DictReader(io.StringIO(command(*listing, "-o", "csv").output)))
    assert [(key, str(n)) for n, key in enumerate(keys)] == [
        (row["access_key"], row["purpose"]) for row in rows
    ]
    lines = [json.loads(line) for line in command(*listing, "-o", "jsonl").output.splitlines()]
    assert keys == [line["accessKey"] for line in lines]
    assert ["0", "1", "2"] == command(*listing, "--field", "purpose").output.split()
    assert command(*listing, "--json").output == command(*listing, "-o", "json").output
    assert [*reversed(keys)] == command(*listing, "--newest-first", "-o", "name").output.split()
    newest = command(*listing, "--newest-first", "--limit", "1", "-o", "name")
    assert [keys[2]] == newest.output.split()


def test_limited_list_continues_with_its_page_token(
    command: Command, client: keyauthority.Client, project_id: str
) -> None:
    """The JSON answer has nextPageToken until the last page."""
    keys = new_keys(client, project_id, 5)
    listing = ("keys", "list", "--project-id", project_id, "--json", "--limit", "2")
    seen, token = [], ""
    for _ in range(3):
        page = json.loads(command(*listing, "--page-token", token).output)
        seen += [key["accessKey"] for key in page["keys"]]
        token = page["nextPageToken"]
    assert (keys, "") == (seen, token)
    refused = command(*listing, "--newest-first", "--page-token", "x")
    assert 2 == refused.code


@pytest.mark.parametrize("form", ["name", "csv"])
def test_form_that_would_lose_the_secret_is_refused_before_the_call(
    command: Command, client: keyauthority.Client, project_id: str, form: str
) -> None:
    """No key is made whose secret nobody sees."""
    create = ("keys", "create", "--project-id", project_id, "--mode", "test", "--kind", "secret")
    refused = command(*create, "-o", form)
    assert 2 == refused.code
    assert "would lose the secret key" in refused.log
    assert [] == list(client.list_keys(project_id))


def test_quiet_prints_no_sentences(command: Command, project_id: str) -> None:
    """Only the record and its secret."""
    create = ("keys", "create", "--project-id", project_id, "--mode", "test", "--kind", "secret")
    loud, quiet = command(*create), command(*create, "--quiet")
    assert "shown this once" in loud.output
    assert "shown this once" not in quiet.output
    assert quiet.output.splitlines()[-1].startswith("sk_test_KA")


def test_ids_are_positional_or_options_but_not_two(
    command: Command, client: keyauthority.Client, project_id: str
) -> None:
    """Every command that names one record."""
    (key,) = new_keys(client, project_id, 1)
    for words in ("show", "update --purpose x", "disable", "enable", "rotate", "revoke"):
        name, *rest = words.split()
        assert (0, "") == (ended := command("keys", name, key, *rest, "--json"))[::2], ended
    for name in ("show", "suspend", "resume"):
        assert 0 == command("projects", name, project_id).code
    assert 0 == command("keys", "show", "--access-key", key).code
    assert 0 == command("keys", "show", key, "--access-key", key).code
    two = command("keys", "show", key, "--access-key", "KA000000000000000000")
    none = command("keys", "show")
    assert (2, 2) == (two.code, none.code)
    assert "ACCESS_KEY or --access-key" in none.log


def test_times_are_relative_or_plain(
    command: Command, client: keyauthority.Client, project_id: str
) -> None:
    """Spans go ahead for ends and back for starts; a date is midnight in UTC."""
    now = datetime.now(UTC)
    create = ("keys", "create", "--project-id", project_id, "--mode", "test", "--kind", "secret")
    for text, expected in (
        ("30d", now + timedelta(days=30)),
        ("2035-01-01", datetime(2035, 1, 1, tzinfo=UTC)),
        ("2035-01-01T00:00Z", datetime(2035, 1, 1, tzinfo=UTC)),
    ):
        made = json.loads(command(*create, "--expire-time", text, "--json").output)
        end = client.get_key(made["key"]["accessKey"]).expire_time
        assert end is not None
        assert abs(end - expected) < timedelta(minutes=5)
    listing = ("keys", "list", "--project-id", project_id, "-o", "name")
    assert 1 == len(command(*listing, "--expires-before", "31d").output.split())
    assert "" == command(*listing, "--expires-before", "29d").output.strip()
    assert "" == command(*listing, "--used-before", "90d").output.strip()
    assert 3 == len(command("audit", "--project-id", project_id, "-o", "name").output.split()) - 1
    assert "" == command("audit", "--start-time", "2035-01-01", "-o", "name").output.strip()
    assert 2 == command(*create, "--expire-time", "2035-01-01T00:00").code


def test_failures_with_json_are_json(command: Command) -> None:
    """Code, reason, message and fields, for refusals, misuse and an unreachable authority."""

    def failed(code: int, *arguments: str) -> dict[str, Any]:
        ended = command(*arguments)
        assert (code, "") == (ended.code, ended.output)
        failure: dict[str, Any] = json.loads(ended.log)
        assert {"code", "reason", "message", "fields"} == set(failure)
        return failure

    absent = failed(1, "keys", "show", "KA000000000000000000", "--json")
    assert ("NOT_FOUND", "ERROR_REASON_KEY_NOT_FOUND") == (absent["code"], absent["reason"])
    invalid = failed(1, "keys", "show", "x", "-o", "json")
    assert ["access_key"] == [field["field"] for field in invalid["fields"]]
    misused = failed(2, "keys", "show", "-ojson")
    assert "INVALID_ARGUMENT" == misused["code"]
    gone = failed(3, "--address", "127.0.0.1:1", "keys", "list", "--json")
    assert "UNAVAILABLE" == gone["code"]


def test_final_actions_ask_on_a_terminal(
    server: ServerProcess, client: keyauthority.Client, project_id: str
) -> None:
    """Revoke, suspend, and rotate without an overlap; no is the default, --yes answers."""
    (key,) = new_keys(client, project_id, 1)
    settings = {
        "KEYAUTHORITY_ADDRESS": server.address,
        "KEYAUTHORITY_OPERATOR_KEY": server.operator_key,
    }

    def asked(answer: str, *arguments: str) -> tuple[int, str]:
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-m", "keyauthority.cli", *arguments],
            env=environment(settings),
            stdin=theirs,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as running:
            os.write(ours, answer.encode())
            _, errors = running.communicate(timeout=WAIT_SECONDS)
        os.close(ours)
        os.close(theirs)
        return running.returncode, errors

    code, errors = asked("\n", "projects", "suspend", project_id)
    assert 2 == code
    assert "not confirmed, nothing was done" in errors
    assert not client.get_project(project_id).suspended
    assert 2 == asked("n\n", "keys", "rotate", key, "--overlap", "0s")[0]
    assert 0 == asked("", "keys", "revoke", key, "--yes")[0]
    assert "revoked" == client.get_key(key).state


def test_health_waits_for_the_server(command: Command, start_server: Start) -> None:
    """SERVING without a credential; 3 for one that is away, until it comes."""
    assert (0, "SERVING\n", "") == command("health")
    assert {"status": "SERVING"} == json.loads(command("health", "--json").output)
    assert (0, "SERVING\n", "") == command("health", "--changes")
    assert 3 == command("--address", "127.0.0.1:1", "health").code
    own = start_server()
    address = own.address
    own.stop()
    settings = environment({"KEYAUTHORITY_ADDRESS": address})
    program = [sys.executable, "-m", "keyauthority.cli", "health", "--wait", "60s"]
    with subprocess.Popen(program, env=settings, stdout=subprocess.PIPE, text=True) as waiting:
        start_server(listen=address)
        assert "SERVING\n" == waiting.communicate(timeout=WAIT_SECONDS)[0]
    assert 0 == waiting.returncode


def test_audit_follows_new_changes(
    server: ServerProcess, client: keyauthority.Client, project_id: str
) -> None:
    """The records first, then each change as it comes, until SIGINT."""
    settings = {
        "KEYAUTHORITY_ADDRESS": server.address,
        "KEYAUTHORITY_OPERATOR_KEY": server.operator_key,
    }
    program = [sys.executable, "-m", "keyauthority.cli", "audit", "--project-id", project_id]
    with subprocess.Popen(
        [*program, "--follow", "--json"],
        env=environment(settings),
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        first = json.loads(running.stdout.readline())
        (key,) = new_keys(client, project_id, 1)
        second = json.loads(running.stdout.readline())
        running.send_signal(signal.SIGTERM)
        wait_until(lambda: running.poll() is not None)
    assert ["CHANGE_TYPE_PROJECT_CREATED", "CHANGE_TYPE_KEY_CREATED"] == [
        first["type"],
        second["type"],
    ]
    assert (key, 0) == (second["accessKey"], running.returncode)
