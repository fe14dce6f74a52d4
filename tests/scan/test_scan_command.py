"""`keyauthority scan`: output, exit codes, states and revocation, on a real server."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pty
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import keyauthority
from keyauthority.cli.app import run
from tests.conftest import one_server
from tests.scan.samples import new_token
from tests.service.processes import Outcome, ServerProcess, environment

Scan = Callable[..., Outcome]


@pytest.fixture
def scan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Scan:
    """Run the command in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def ended(*arguments: str, stdin: bytes = b"", **settings: str) -> Outcome:
        for name in ("KEYAUTHORITY_ADDRESS", "KEYAUTHORITY_OPERATOR_KEY"):
            monkeypatch.setenv(name, settings.get(name, ""))
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = run(["scan", *arguments])
        return Outcome(code, *capsys.readouterr())

    return ended


@pytest.fixture
def client(server: ServerProcess) -> Iterator[keyauthority.Client]:
    """The first operator."""
    with keyauthority.Client(server.address, operator_key=server.operator_key) as one:
        yield one


def settings(server: ServerProcess) -> dict[str, str]:
    """Return the variables of a caller with all rights."""
    return {
        "KEYAUTHORITY_ADDRESS": server.address,
        "KEYAUTHORITY_OPERATOR_KEY": server.operator_key,
    }


def test_json_has_place_and_key_but_never_the_token(scan: Scan, tmp_path: Path) -> None:
    """An array of findings; standard error stays empty."""
    token = new_token(prefix="acme")
    (tmp_path / "a.env").write_text(f"#\nKEY={token}\n")
    ended = scan(".", "--json")
    access_key = token[token.index("KA") :][:20]
    expected = {
        "file": "a.env",
        "line": 2,
        "kind": "secret",
        "mode": "live",
        "accessKey": access_key,
        "state": None,
    }
    assert (1, [expected], "") == (ended.code, json.loads(ended.output), ended.log)
    for arguments in ((".",), (".", "--sarif"), ("a.env",)):
        ended = scan(*arguments)
        assert (1, "") == (ended.code, ended.log)
        assert access_key in ended.output
        assert token[-49:] not in ended.output


def test_nothing_found_exits_0_and_prints_an_empty_list(scan: Scan, tmp_path: Path) -> None:
    """Including an empty standard input."""
    (tmp_path / "a").write_text("nothing\n")
    assert (0, "", "") == scan(".")
    assert (0, []) == ((ended := scan("-", "--json")).code, json.loads(ended.output))


def test_standard_input_is_searched(scan: Scan) -> None:
    """A pipe, with lines counted."""
    ended = scan("-", "--json", stdin=f"\n\n{new_token()}".encode())
    assert (1, [("-", 3)]) == (
        ended.code,
        [(each["file"], each["line"]) for each in json.loads(ended.output)],
    )


def test_unreadable_file_is_reported_and_exits_3(scan: Scan, tmp_path: Path) -> None:
    """A scan that could not read everything does not say that all is well."""
    ended = scan("absent")
    assert (3, "keyauthority scan: absent: No such file or directory\n") == (ended.code, ended.log)
    (tmp_path / "a").write_text(new_token())
    ended = scan("absent", "a", "--json")
    assert 1 == len(json.loads(ended.output))
    assert "absent: No such file" in ended.log


@pytest.mark.parametrize("arguments", [(), (".", "--git"), ("-", "a"), (".", "--json", "--sarif")])
def test_contradicting_arguments_exit_2(scan: Scan, arguments: tuple[str, ...]) -> None:
    """One line that says which to give."""
    ended = scan(*arguments)
    assert (2, "", 1) == (ended.code, ended.output, len(ended.log.splitlines()))


def test_special_files_and_links_do_not_stop_the_scan(scan: Scan, tmp_path: Path) -> None:
    """A FIFO without a writer, a link that leads outside or in a circle."""
    token = new_token()
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "a").write_text(token)
    os.mkfifo(tmp_path / "dir" / "fifo")
    (tmp_path / "dir" / "loop").symlink_to(tmp_path / "dir")
    (tmp_path / "dir" / "gone").symlink_to("nowhere")
    assert stat.S_ISFIFO((tmp_path / "dir" / "fifo").stat().st_mode)
    ended = scan("dir", "--json")
    assert (1, ["dir/a"]) == (ended.code, [each["file"] for each in json.loads(ended.output)])


def test_ignored_files_are_skipped_unless_they_are_named(scan: Scan, tmp_path: Path) -> None:
    """In a git work tree: tracked and new files, but not those of .gitignore."""
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)  # noqa: S607
    (tmp_path / ".gitignore").write_text("build/\n*.log\n")
    (tmp_path / "build").mkdir()
    for name in ("build/a", "b.log", "new"):
        (tmp_path / name).write_text(new_token())

    def files(*paths: str) -> list[str]:
        return [each["file"] for each in json.loads(scan(*paths, "--json").output)]

    assert ["new"] == files(".")
    assert ["build/a", "b.log"] == files("build", "b.log")


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("{outside}/key", 0o100644),
        ("../outside/key", 0o100644),
        ("../outside", 0o160000),
        ("link/key", 0o100644),
        (".", 0o160000),
    ],
)
def test_index_leads_the_scan_out_of_no_work_tree(
    scan: Scan, tmp_path: Path, name: str, mode: int
) -> None:
    """Git writes no such name, but a tree that is not trusted may hold any index."""
    outside, tree = tmp_path / "outside", tmp_path / "tree"
    outside.mkdir()
    (outside / "key").write_text(new_token())
    subprocess.run(["git", "init", "-q", str(tree)], check=True)  # noqa: S607
    (tree / "link").symlink_to(outside)
    text = name.format(outside=outside).encode()
    entry = struct.pack(">6I", 0, 0, 0, 0, 0, 0) + struct.pack(">4I", mode, 0, 0, 0)
    entry += b"\1" * 20 + struct.pack(">H", len(text)) + text
    content = b"DIRC" + struct.pack(">2I", 2, 1) + entry + bytes(8 - len(entry) % 8)
    (tree / ".git/index").write_bytes(content + hashlib.sha1(content).digest())  # noqa: S324
    ended = scan("tree", "--json")
    assert (3, []) == (ended.code, json.loads(ended.output))
    assert "its git index names it" in ended.log


def test_many_files_are_searched_by_several_processes(tmp_path: Path) -> None:
    """In order, each finding once."""
    for number in range(600):
        text = new_token() if number % 200 == 7 else "x"
        (tmp_path / f"{number:03}").write_text(text)
    ended = subprocess.run(
        [sys.executable, "-m", "keyauthority.cli", "scan", ".", "--json"],
        cwd=tmp_path,
        env=environment({}),
        capture_output=True,
        check=False,
    )
    assert (1, b"") == (ended.returncode, ended.stderr)
    assert ["007", "207", "407"] == [each["file"] for each in json.loads(ended.stdout)]


def test_check_adds_the_states(
    scan: Scan, server: ServerProcess, client: keyauthority.Client
) -> None:
    """Active, revoked, and unknown for a token that no key has."""
    project = client.create_project("leaks").project_id
    active, revoked = (client.create_key(project, mode="test", kind="secret") for _ in range(2))
    client.revoke_key(revoked.key.access_key)
    tokens = (active.secret_key.reveal(), revoked.secret_key.reveal(), new_token())
    ended = scan("-", "--check", "--json", stdin="\n".join(tokens).encode(), **settings(server))
    states = [each["state"] for each in json.loads(ended.output)]
    assert (1, ["active", "revoked", "unknown"], "") == (ended.code, states, ended.log)
    assert client.get_key(active.key.access_key).last_used_time is None


def test_check_of_an_unreachable_authority_exits_3_after_the_findings(scan: Scan) -> None:
    """The findings are printed in any case."""
    token = new_token()
    ended = scan("-", "--check", stdin=token.encode(), KEYAUTHORITY_ADDRESS="127.0.0.1:1")
    assert 3 == ended.code
    assert token[8:28] in ended.output
    assert "cannot reach 127.0.0.1:1" in ended.log


def test_revoke_needs_a_confirmation(
    scan: Scan, server: ServerProcess, client: keyauthority.Client, tmp_path: Path
) -> None:
    """Unanswered it revokes nothing and exits 2; --yes revokes what is not ended, as leaked."""
    project = client.create_project("leaks").project_id
    made = [client.create_key(project, mode="test", kind="secret") for _ in range(3)]
    public = client.create_key(project, mode="test", kind="publishable", permissions=["a:b"])
    client.update_key(made[1].key.access_key, disabled=True)
    client.revoke_key(made[2].key.access_key, reason="owner_left")
    tokens = [each.secret_key.reveal() for each in (*made, public)]
    (tmp_path / "leak").write_text("\n".join([*tokens, new_token()]))
    refused = scan("leak", "--revoke", **settings(server))
    assert 2 == refused.code
    assert "not confirmed, nothing was revoked" in refused.log
    assert "active" == client.get_key(made[0].key.access_key).state
    ended = scan("leak", "--revoke", "--yes", **settings(server))
    assert 1 == ended.code
    live = [made[0].key.access_key, made[1].key.access_key, public.key.access_key]
    assert [f"revoked {access_key}" for access_key in live] == ended.log.splitlines()
    for access_key in live:
        assert "leaked" == client.get_key(access_key).revoke_reason
    assert "owner_left" == client.get_key(made[2].key.access_key).revoke_reason
    events = client.list_events(access_key=live[0])
    assert ["key_created", "key_revoked"] == sorted(event.type for event in events)


@one_server
def test_revoke_asks_on_a_terminal(
    server: ServerProcess, client: keyauthority.Client, tmp_path: Path
) -> None:
    """No is the default; yes revokes."""
    project = client.create_project("leaks").project_id
    key = client.create_key(project, mode="test", kind="secret")
    (tmp_path / "leak").write_text(key.secret_key.reveal())
    for answer, code, state in (("\n", 2, "active"), ("y\n", 1, "revoked")):
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-m", "keyauthority.cli", "scan", "leak", "--revoke"],
            cwd=tmp_path,
            env=environment(settings(server)),
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as running:
            os.write(ours, answer.encode())
            _, errors = running.communicate(timeout=60)
        os.close(ours)
        os.close(theirs)
        assert b"Revoke 1 leaked key?" in errors
        assert (code, state) == (running.returncode, client.get_key(key.key.access_key).state)


def test_sarif_is_what_code_scanning_accepts(scan: Scan, tmp_path: Path) -> None:
    """Version, rule, relative URI, line and fingerprint of each result."""
    (tmp_path / "a dir").mkdir()
    token = new_token()
    (tmp_path / "a dir" / "é.env").write_text(f"\n{token}")
    report: dict[str, Any] = json.loads(scan(".", "--sarif").output)
    (run,) = report["runs"]
    (rule,) = run["tool"]["driver"]["rules"]
    (result,) = run["results"]
    (location,) = result["locations"]
    place = location["physicalLocation"]
    assert "2.1.0" == report["version"]
    assert (rule["id"], 0, "error") == (result["ruleId"], result["ruleIndex"], result["level"])
    assert 0 <= float(rule["properties"]["security-severity"]) <= 10
    assert "a%20dir/%C3%A9.env" == place["artifactLocation"]["uri"]
    assert {"startLine": 2} == place["region"]
    assert {"accessKey/v1": token[8:28]} == result["partialFingerprints"]
    assert token[8:28] in result["message"]["text"]
