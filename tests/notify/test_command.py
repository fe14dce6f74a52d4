"""The command: its ready line, its drain, its exit codes and its messages."""

from __future__ import annotations

import asyncio
import base64
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from keyauthority import Client
from keyauthority.cli.app import run as program
from keyauthority.notify.events import Event
from keyauthority.notify.journal import Journal
from keyauthority.notify.outbox import Outbox, Position
from keyauthority.testing import Authority
from tests.notify.conftest import SECRET, StartNotify, change
from tests.notify.receiver import Receiver, Reply

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(
    key_authority: Authority,
    hooks: Receiver,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Runs the command until it ends by itself; returns its exit code and its message."""
    secrets = tmp_path / "secrets"
    secrets.write_text(SECRET, encoding="ascii")
    monkeypatch.setenv("KEYAUTHORITY_ADDRESS", key_authority.address)
    monkeypatch.setenv("KEYAUTHORITY_OPERATOR_KEY", key_authority.operator_key)
    monkeypatch.setattr("keyauthority.cli.notify.log_to_stderr", lambda: None)

    def ended(*flags: str, **settings: str) -> tuple[int, str]:
        for name, text in settings.items():
            monkeypatch.setenv(name, text)
        given = ["--webhook", hooks.url, "--secret-file", str(secrets)]
        given += ["--cursor-file", str(tmp_path / "cursor"), "--allow-private"]
        code = program(["notify", *given, *flags])
        return code, capsys.readouterr().err

    return ended


def test_command_is_ready_delivers_and_drains(
    start: StartNotify, client: Client, hooks: Receiver
) -> None:
    """Its log has no secret, and neither has its command line."""
    notify = start()
    assert notify.process
    shown = Path(f"/proc/{notify.process.pid}/cmdline").read_bytes().decode()
    event_id = change(client)
    hooks.wait_for(event_id)
    assert 0 == notify.stop()
    for text in (notify.log, shown, notify.cursor.read_text()):
        assert SECRET.removeprefix("whsec_") not in text
        assert notify.authority.operator_key not in text
    assert "" == notify.log
    assert 0o600 == notify.cursor.stat().st_mode & 0o777
    missed = change(client)
    notify.start()
    hooks.wait_for(missed)
    assert 0 == notify.stop()
    assert {1} == set(hooks.taken.values())


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        ([], "the operator key lacks changes:watch"),
        (["--webhook", "gopher://example.org/"], "--webhook: not a URL"),
        (["--secret-file", "/nowhere"], "--secret-file: /nowhere: No such file or directory"),
        (["--cursor-file", "/nowhere/cursor"], "--cursor-file: /nowhere/cursor: No such file"),
        (["--cursor-file", "/dev/null/cursor"], "--cursor-file: /dev/null/cursor: Not a directory"),
    ],
)
def test_wrong_configuration_is_refused_with_exit_code_2(
    run: Run, client: Client, flags: list[str], text: str
) -> None:
    """One line names the option; without a mistake there, the operator key lacks a right."""
    created = client.create_key("", kind="operator", permissions=["keys:read"])
    code, message = run(*flags, KEYAUTHORITY_OPERATOR_KEY="" + created.secret_key)
    assert 2 == code
    assert text in message
    assert 1 == message.count("\n")


def test_private_address_is_refused_with_exit_code_2(
    hooks: Receiver, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Unless --allow-private is given; a message says so."""
    secrets = str(tmp_path / "secrets")
    (tmp_path / "secrets").write_text(SECRET, encoding="ascii")
    code = program(["notify", "--webhook", "https://127.0.0.1:9/", "--secret-file", secrets])
    expected = (
        "127.0.0.1 has the address 127.0.0.1, which is not public; --allow-private permits it"
    )
    assert (2, f"keyauthority: --webhook: {expected}\n") == (code, capsys.readouterr().err)
    assert not hooks.requests


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "holds 0 secrets, not 1 to 10"),
        (f"{SECRET}\n" * 11, "holds 11 secrets, not 1 to 10"),
        ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "line 1 is no secret"),
        (f"{SECRET}\nwhsec_c2hvcnQ=", "line 2 is no secret: write whsec_ and 24 to 64 bytes"),
        (f"whsec_{base64.b64encode(bytes(65)).decode()}", "line 1 is no secret"),
        (f"{SECRET}!", "line 1 is no secret"),
        ("whsk_" + SECRET.removeprefix("whsec_"), "line 1 is no secret"),
        ("whsec_é", "is not ASCII text"),
    ],
)
def test_file_without_usable_secrets_is_refused_and_not_shown(
    run: Run, tmp_path: Path, text: str, reason: str
) -> None:
    """The message names the line."""
    (tmp_path / "bad").write_text(text, encoding="utf-8")
    code, message = run("--secret-file", str(tmp_path / "bad"))
    assert 2 == code
    assert reason in message
    assert "MfKQ9r8" not in message


def test_operator_key_that_is_not_valid_ends_with_exit_code_2(run: Run) -> None:
    """The message names the variable."""
    key = "op_live_KA0123456789ABCDEFGH_fvoEdQeeVc0mZ71i5JuiKNTDvWO8cAduGHnTmvX86Qo1NFkcX"
    code, message = run(KEYAUTHORITY_OPERATOR_KEY=key)
    assert 2 == code
    assert "KEYAUTHORITY_OPERATOR_KEY" in message
    assert key not in message


def test_cursor_file_in_use_ends_with_exit_code_3(run: Run, tmp_path: Path) -> None:
    """It may be free at the next try."""
    with Journal(tmp_path / "cursor"):
        code, message = run()
    assert (3, True) == (code, "another process uses" in message)


def test_taken_address_of_metrics_ends_with_exit_code_3(run: Run) -> None:
    """It names the address; one that is no address is refused with 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        code, message = run("--metrics", address)
    assert (3, True) == (code, f"cannot listen on {address}: Address already" in message), message
    code, message = run("--metrics", f"unix:/{'x' * 200}")
    assert (3, True) == (code, message.endswith("path too long\n")), message
    code, message = run("--metrics", "example.org:9104")
    assert (2, True) == (code, "--metrics" in message)


async def pend(path: Path, event_id: str) -> None:
    """Make a cursor file with a pending event."""
    with Journal(path) as journal:
        written = Outbox(journal)
        written.take(Position("log", 1), [Event(event_id, "{}")])
        await written.flush()


def test_answer_410_ends_with_exit_code_1(run: Run, hooks: Receiver, tmp_path: Path) -> None:
    """The receiver has refused, and a new start tries again."""
    asyncio.run(pend(tmp_path / "cursor", "1"))
    hooks.answer = lambda event_id, number: Reply(410)
    code, message = run()
    assert 1 == code
    assert "the receiver answered 410 Gone" in message
    assert ["1"] == [request.id for request in hooks.requests]


@pytest.mark.parametrize("library", ["httpcore", "uvicorn"])
def test_missing_extra_is_named(run: Run, monkeypatch: pytest.MonkeyPatch, library: str) -> None:
    """The command line alone does not bring them."""
    packages = ("keyauthority.notify.", "keyauthority.endpoint.")
    for name in [name for name in sys.modules if name.startswith(packages)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("keyauthority.notify.sender", raising=False)
    monkeypatch.setitem(sys.modules, library, None)
    expected = "keyauthority: notify needs more: install keyauthority[notify]\n"
    assert (2, expected) == run()
