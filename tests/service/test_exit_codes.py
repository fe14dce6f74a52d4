"""How each command ends when it cannot do its work, and when nobody can hear it."""

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
def test_output_that_cannot_be_written_is_told_in_one_line(data: Path, words: str) -> None:
    """A full device behind standard output: exit code 3, and no traceback, at the end neither."""
    with Path("/dev/full").open("w", encoding="ascii") as full:
        code, log = ended(*words.split(), stdout=full.fileno(), KEYAUTHORITY_DATA=str(data))
    line = "keyauthority-server: cannot write to standard output: No space left on device\n"
    assert (3, True) == (code, log.endswith(line)), log
    assert "Traceback" not in log


@pytest.mark.parametrize("words", ["config show", "operator create"])
def test_closed_standard_output_is_refused_before_anything_is_done(data: Path, words: str) -> None:
    """A secret that is shown once would be lost; a lock file could take the descriptor."""
    told = ended(*words.split(), KEYAUTHORITY_DATA=str(data))
    assert (2, "keyauthority-server: standard output is closed\n") == told


def test_closed_standard_error_harms_nothing(tmp_path: Path) -> None:
    """There is nobody to tell; the work is done all the same."""
    words = command("init", "--data", str(tmp_path / "data"))
    closed = ["sh", "-c", 'exec "$@" 2>&-', "sh", *words]
    done = subprocess.run(closed, stdout=subprocess.PIPE, env=environment(), check=True, timeout=90)
    assert f"{tmp_path}/data is ready\n" == done.stdout.decode()


def test_reader_that_leaves_ends_the_command_without_a_word(data: Path) -> None:
    """As `| head` does."""
    reading, writing = os.pipe()
    os.close(reading)
    assert (3, "") == ended("config", "show", stdout=writing, KEYAUTHORITY_DATA=str(data))
    os.close(writing)


def test_characters_that_the_terminal_lacks_are_escaped(data: Path) -> None:
    """An ASCII terminal: what is printed is whole, and `config show` is still TOML."""
    reading, writing = os.pipe()
    told = ended(
        *("config", "show"), stdout=writing, KEYAUTHORITY_DATA=str(data), PYTHONIOENCODING="ascii"
    )
    os.close(writing)
    with os.fdopen(reading, encoding="ascii") as shown:
        assert ((0, ""), True) == (told, "schl\\U000000fcssel" in shown.read())


@pytest.mark.parametrize("words", [(), ("config",), ("pepper",)])
def test_program_without_a_command_prints_its_usage(words: tuple[str, ...]) -> None:
    """Readable: a line for each command, as --help has it."""
    outcome = shared().run(*words)
    assert (2, "") == (outcome.code, outcome.output)
    assert outcome.log.startswith("Usage: ")
    assert outcome.log.count("\n") >= 8


def test_version_is_that_of_the_package() -> None:
    """One line: the program and its version."""
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
def test_exit_code_says_whether_another_try_can_help(data: Path, code: int, words: str) -> None:
    """1 refused, 2 used or configured wrongly, 3 cannot be done now; one line each."""
    outcome = shared().run(*words.split(), settings={"KEYAUTHORITY_DATA": str(data)})
    assert (code, "", 1) == (outcome.code, outcome.output, outcome.log.count("\n")), outcome.log
    assert outcome.log.startswith("keyauthority-server: ")


def test_address_in_use_may_be_free_later(data: Path) -> None:
    """Exit code 3: systemd starts the server again."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        outcome = shared().run("serve", "--data", str(data), "--listen", address)
        assert 3 == outcome.code
        assert f"keyauthority-server: cannot listen on {address}: Address already" in outcome.log
        metrics = ("--listen", "127.0.0.1:0", "--metrics", address)
        outcome = shared().run("serve", "--data", str(data), *metrics)
        assert (3, True) == (outcome.code, f"for metrics on {address}" in outcome.log)
