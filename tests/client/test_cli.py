"""The command line `keyauthority`: arguments, output, exit codes, secrets."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from keyauthority import convert
from keyauthority.errors import ErrorReason, error
from keyauthority.model import (
    Project,
)
from keyauthority.results import Page
from keyauthority.v1 import key_authority_service_pb2 as service_pb2
from tests.client import records
from tests.client.conftest import Command, Ended
from tests.client.fake_authority import FakeAuthority
from tests.client.records import KEY, OPERATOR_KEY, PROJECT_ID, TOKEN
from tests.client.strategies import at

_KEY_ANSWER = service_pb2.GetKeyResponse(key=convert.key_to_proto(KEY))


def test_created_secret_is_printed_once_on_its_own_line(
    command: Command, authority: FakeAuthority
) -> None:
    """It can be copied from there and appears nowhere else."""
    authority.will(convert.created_key_to_proto(records.CREATED_KEY))

    ended = command("keys", "create", "--kind", "secret")

    assert ended.out.splitlines().count(TOKEN) == 1
    assert ended.out.count(TOKEN) == 1


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (records.VALID_ANSWER, 0),
        (records.UNKNOWN_ANSWER, 1),
        (error(ErrorReason.STORE_UNAVAILABLE, "down"), 3),
        (error(ErrorReason.PERMISSION_MISSING, "no"), 3),
        (error(ErrorReason.CREDENTIAL_MISSING, "no"), 2),
        (service_pb2.VerifyResponse(), 3),
    ],
)
def test_verify_exit_code_is_the_result(
    command: Command, authority: FakeAuthority, answer: Any, code: int
) -> None:
    """0 valid, 1 denied, 3 unknown: scripts are never misled."""
    authority.will(answer)

    assert command("verify", stdin=TOKEN.encode()).code == code


def test_verify_usage_error_is_not_denied(command: Command) -> None:
    """A typing mistake has the usage exit code."""
    assert command("verify", "--mode", "odd").code == 2


@pytest.mark.parametrize(
    ("stdin", "secret_key"),
    [(b"", ""), (b"\n", ""), (b" \tx \r\nrest", "x"), (b"\xff\n", "\ufffd")],
)
def test_secret_input_is_the_trimmed_first_line(
    command: Command, authority: FakeAuthority, stdin: bytes, secret_key: str
) -> None:
    """Secrets come from pastes and files; the server judges all other faults."""
    authority.will(records.UNKNOWN_ANSWER)

    command("verify", stdin=stdin)

    assert authority.seen[0].request.secret_key == secret_key


def test_shared_options_are_listed_once_in_the_documented_order(command: Command) -> None:
    """The root's help has those of the connection; `--tls` refers to the three after it."""
    forms = ["--json", "--field", "--quiet"]
    connection = [
        *("--timeout", "--address"),
        *("--tls", "--tls-ca", "--tls-cert", "--tls-key", "--allow-plaintext"),
    ]

    for words, expected in (((), forms + connection), (("verify",), forms)):
        flags = re.findall(r"^  (--\S+)", command(*words, "--help").out, re.MULTILINE)
        assert flags[flags.index("--json") : flags.index("--quiet") + 20] == expected


def test_closed_standard_input_is_a_usage_error(command: Command) -> None:
    """As after `<&-` in a shell."""
    ended = command("verify", stdin=None)

    assert ended.code == 2
    assert "standard input, which is closed" in ended.err


def test_refused_call_is_one_line_and_exit_code_1(
    command: Command, authority: FakeAuthority
) -> None:
    """Scripts can tell it from a usage error, and logs get one line."""
    authority.will(error(ErrorReason.KEY_NOT_FOUND, "no such\nkey \x1b[31m"))

    ended = command("keys", "show", "--access-key", "KA")

    expected = "keyauthority: no such key \\x1b[31m (key_not_found) [NOT_FOUND]\n"
    assert ended == Ended(1, "", expected)


def test_token_after_an_escaped_character_is_redacted(
    command: Command, authority: FakeAuthority
) -> None:
    """The letter that ends an escape must not hide a token."""
    authority.will(error(ErrorReason.KEY_NOT_FOUND, f"no such key \x1b{records.TOKEN}"))

    ended = command("keys", "show", "KA")

    assert records.TOKEN not in ended.err
    assert "\\x1b**********" in ended.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["keys", "create"],
        ["keys", "create", "--kind", "odd"],
        ["keys", "create", "--kind", "secret", "--ttl", "5x"],
        ["keys", "create", "--kind", "secret", "--ttl", "999999999d", "--expire-time", "now"],
        ["keys", "create", "--kind", "secret", "--expire-time", "2030-01-01T00:00:00"],
        ["keys", "create", "--kind", "secret", "--rate-limit", "100"],
        ["keys", "create", "--kind", "secret", "--rate-limit", "100/1y"],
        ["keys", "create", "--kind", "secret", "--quota", "1/year"],
        ["keys", "create", "--kind", "secret", "--label", "novalue"],
        ["keys", "create", "--kind", "secret", "--label", "a=1", "--label", "a=2"],
        ["keys", "create", "--kind", "secret", "--android-app", "package"],
        ["keys", "create", "--kind", "secret", "--ttl", "1d", "--expire-time", "2030-01-01T00:00Z"],
        ["keys", "revoke"],
        ["keys", "update", "--access-key", "KA"],
        ["keys", "update", "--access-key", "KA", "--clear", "mode"],
        ["keys", "update", "--access-key", "KA", "--clear", "purpose", "--purpose", "x"],
        ["keys", "update", "--access-key", "KA", "--label", "a=1", "--label", "a=2"],
        ["keys", "rotate", "--access-key", "KA", "--overlap", "soon"],
        ["projects", "update", "--project-id", "p"],
        ["projects", "suspend"],
        ["projects", "create", "--display-name", "\udcff"],
        ["keys", "show", "--access-key", "\udcff"],
        ["usage", "--granularity", "week"],
        ["keys", "show"],
        ["nonsense"],
    ],
)
def test_usage_error_is_one_line_and_exit_code_2(
    command: Command, authority: FakeAuthority, arguments: list[str]
) -> None:
    """It names the mistake, and nothing is sent."""
    ended = command(*arguments)

    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)
    assert ended.err.startswith("keyauthority")
    assert authority.seen == []


def test_token_given_as_an_argument_is_not_echoed(command: Command) -> None:
    """Standard error may be a log."""
    ended = command("verify", TOKEN)

    assert ended.code == 2
    assert TOKEN not in ended.err


@pytest.mark.parametrize("place", [0, 1, 3])
def test_global_options_may_follow_any_part(
    command: Command, authority: FakeAuthority, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """`keyauthority --json keys list` and `keyauthority keys list --json` are equal."""
    monkeypatch.setenv("KEYAUTHORITY_ADDRESS", "127.0.0.1:1")
    authority.will(_KEY_ANSWER)
    arguments = ["keys", "show", "--access-key=KA"]
    arguments[place:place] = ["--json", "--address", authority.address, "--timeout", "9s"]

    ended = command(*arguments)

    assert ended.code == 0
    assert json.loads(ended.out)["key"]["accessKey"] == KEY.access_key
    assert 8 < authority.seen[0].seconds_left < 10  # gRPC rounds it up by some milliseconds


def test_credential_is_read_from_the_environment(
    command: Command, authority: FakeAuthority, monkeypatch: pytest.MonkeyPatch
) -> None:
    """KEYAUTHORITY_OPERATOR_KEY holds the operator key itself."""
    monkeypatch.setenv("KEYAUTHORITY_OPERATOR_KEY", OPERATOR_KEY)
    authority.will(_KEY_ANSWER)

    command("keys", "show", "--access-key", "KA")

    assert authority.seen[0].metadata["authorization"] == f"Bearer {OPERATOR_KEY}"


def test_credential_is_read_from_a_file(
    command: Command, authority: FakeAuthority, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """KEYAUTHORITY_OPERATOR_KEY_FILE names the server's file; its newline is trimmed."""
    file = tmp_path / "operator.key"
    file.write_text(OPERATOR_KEY + "\n", encoding="ascii")
    monkeypatch.setenv("KEYAUTHORITY_OPERATOR_KEY_FILE", str(file))
    authority.will(_KEY_ANSWER)

    command("keys", "show", "--access-key", "KA")

    assert authority.seen[0].metadata["authorization"] == f"Bearer {OPERATOR_KEY}"


@pytest.mark.parametrize(
    "environment",
    [
        {"KEYAUTHORITY_OPERATOR_KEY_FILE": "/nonexistent/operator.key"},
        {"KEYAUTHORITY_OPERATOR_KEY_FILE": "/dev/null", "KEYAUTHORITY_OPERATOR_KEY": "x"},
        {"KEYAUTHORITY_OPERATOR_KEY": "op_live_\x7f"},
    ],
)
def test_invalid_credential_is_a_usage_error(
    command: Command, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    """A missing file, two sources or broken text give one line."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    ended = command("keys", "list")

    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1)


def test_server_text_cannot_control_the_terminal(
    command: Command, authority: FakeAuthority
) -> None:
    """Names and purposes are plain text: no escape sequence, markup or extra line."""
    hostile = Project(
        project_id=PROJECT_ID,
        display_name="[red]a\x1b[31mb\nc\u202ed",
        create_time=at(0),
        update_time=at(0),
        revision=1,
    )
    authority.will(convert.project_page_to_proto(Page((hostile,))))

    ended = command("projects", "list")

    assert "[red]a\\x1b[31mb\\nc\\u202ed" in ended.out
    assert "\x1b" not in ended.out


def test_command_group_alone_prints_its_help(command: Command) -> None:
    """It has the exit code of a usage error."""
    ended = command("keys")

    assert ended.code == 2
    assert "revoke" in ended.err


def test_version_flag_prints_the_version(command: Command) -> None:
    """`--version` is enough for a bug report."""
    assert command("--version").out.startswith("keyauthority, version ")
