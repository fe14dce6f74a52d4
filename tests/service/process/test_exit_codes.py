"""Exit codes of the commands: failures, and standard streams that are full or closed."""

from __future__ import annotations

import os
import socket
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from tests.service.forkserver import shared
from tests.service.processes import command, environment


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder that is initialised, and whose name is beyond ASCII."""
    data = tmp_path_factory.mktemp("data") / "schlüssel"
    assert 0 == shared().run("init", "--data", str(data)).code
    return data


def ended(*arguments: str, stdout: int | None = None, **environ: str) -> tuple[int, str]:
    """The exit code and the log of a command that prints to a descriptor, None if to none."""
    closed = () if stdout is not None else ("sh", "-c", 'exec "$@" >&-', "sh")
    done = subprocess.run(
        [*closed, *command(*arguments)],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env=environment(environ),
        check=False,
        text=True,
        timeout=90,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize("words", ["config show", "--version", "operator create"])
def test_unwritable_output_is_one_error_line(data: Path, words: str) -> None:
    """A full device on standard output gives exit code 3 and no traceback, even at exit."""
    with Path("/dev/full").open("w", encoding="ascii") as full:
        code, log = ended(*words.split(), stdout=full.fileno(), KEYAUTHORITY_DATA=str(data))
    line = "keyauthority-server: cannot write to standard output: No space left on device\n"
    assert (3, True) == (code, log.endswith(line)), log
    assert "Traceback" not in log


@pytest.mark.parametrize("words", ["config show", "operator create"])
def test_closed_standard_output_is_refused_before_any_effect(data: Path, words: str) -> None:
    """A secret shown once would be lost; a lock file could take the descriptor."""
    told = ended(*words.split(), KEYAUTHORITY_DATA=str(data))
    assert (2, "keyauthority-server: standard output is closed\n") == told


def test_closed_standard_error_does_no_harm(tmp_path: Path) -> None:
    """The command does its work although it cannot report errors."""
    words = command("init", "--data", str(tmp_path / "data"))
    closed = ["sh", "-c", 'exec "$@" 2>&-', "sh", *words]
    done = subprocess.run(closed, stdout=subprocess.PIPE, env=environment(), check=True, timeout=90)
    assert f"{tmp_path}/data is ready\n" == done.stdout.decode()


def test_closed_pipe_ends_the_command_silently(data: Path) -> None:
    """The reader may leave early, as `head` does."""
    reading, writing = os.pipe()
    os.close(reading)
    assert (3, "") == ended("config", "show", stdout=writing, KEYAUTHORITY_DATA=str(data))
    os.close(writing)


def test_characters_missing_in_the_terminal_are_escaped(data: Path) -> None:
    """On an ASCII terminal the output is complete, and `config show` is still TOML."""
    reading, writing = os.pipe()
    told = ended(
        *("config", "show"), stdout=writing, KEYAUTHORITY_DATA=str(data), PYTHONIOENCODING="ascii"
    )
    os.close(writing)
    with os.fdopen(reading, encoding="ascii") as shown:
        assert ((0, ""), True) == (told, "schl\\U000000fcssel" in shown.read())


@pytest.mark.parametrize("words", [(), ("config",), ("pepper",)])
def test_program_without_a_command_prints_usage(words: tuple[str, ...]) -> None:
    """The usage has a line for each command, as --help does."""
    outcome = shared().run(*words)
    assert (2, "") == (outcome.code, outcome.output)
    assert outcome.log.startswith("Usage: ")
    assert outcome.log.count("\n") >= 8


def test_version_flag_prints_the_package_version() -> None:
    """The output is one line: the program and its version."""
    expected = (0, f"keyauthority-server {version('keyauthority')}\n", "")
    assert expected == shared().run("--version")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (2, "serve --workers two"),
        (2, "backup"),
        (2, "audit verify --head /absent"),
        (2, "restore /absent"),
        (2, "audit verify --data /absent"),
        (1, "operator create --permission keys"),
        (1, "pepper drop 1"),
        (3, "serve --listen 192.0.2.1:1 --allow-plaintext"),
        (3, "audit verify --store postgresql://u:p@127.0.0.1:1/d"),
    ],
)
def test_exit_code_tells_if_a_retry_can_help(data: Path, code: int, words: str) -> None:
    """1 refused, 2 usage or configuration, 3 not possible now; one line each."""
    outcome = shared().run(*words.split(), settings={"KEYAUTHORITY_DATA": str(data)})
    assert (code, "", 1) == (outcome.code, outcome.output, outcome.log.count("\n")), outcome.log
    assert outcome.log.startswith("keyauthority-server: ")


def test_address_in_use_exits_3(data: Path) -> None:
    """With exit code 3 systemd starts the server again."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        outcome = shared().run("serve", "--data", str(data), "--listen", address)
        assert 3 == outcome.code
        assert f"keyauthority-server: cannot listen on {address}: Address already" in outcome.log
        metrics = ("--listen", "127.0.0.1:0", "--metrics", address)
        outcome = shared().run("serve", "--data", str(data), *metrics)
        assert (3, True) == (outcome.code, f"for metrics on {address}" in outcome.log)
