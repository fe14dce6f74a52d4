"""Exit codes of the commands: failures, and standard streams that are full or closed."""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import socket
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

import click
import pytest

from keyauthority_server.commands import cli
from keyauthority_server.runtime.supervisor import hold_folder
from tests.service.forkserver import shared
from tests.service.processes import Outcome, command, environment, run

UNREACHABLE: Final = "--store postgresql://u:p@127.0.0.1:1/d"

# Commands and their exit codes; commands before a semicolon prepare the last one.
DONE: Final = (
    "init",
    "migrate",
    "serve",
    "config show",
    "audit verify",
    "audit refused",
    "operator create",
    "pepper rotate",
    "pepper status",
    "pepper rotate; pepper rotate; pepper drop 2",
    "backup {new}",
    "backup {new}; restore --dry-run {new}",
    "backup {new}; restore --json {new}",
    "copy --from sqlite:///{data}/keyauthority.db --to sqlite:///{new}",
)
REFUSED: Final = (
    "operator create --permission keys",
    "pepper drop 1",
    "backup {new}; restore {new} --store sqlite:///{new}.absent",
)
WRONG: Final = (
    "serve --workers two",
    "backup",
    "audit verify --head /absent",
    "restore /absent",
    "restore --dry-run /absent",
    "restore --dry-run {data}/pepper",
    "backup {data}/keyauthority.db",
    "audit verify --data /absent",
)
UNCERTAIN: Final = (
    "serve --listen 192.0.2.1:1 --allow-plaintext",
    f"migrate {UNREACHABLE}",
    f"init {UNREACHABLE}",
    f"audit verify {UNREACHABLE}",
    f"audit refused {UNREACHABLE}",
    f"operator create {UNREACHABLE}",
    f"pepper rotate {UNREACHABLE}",
    f"pepper status {UNREACHABLE}",
    f"pepper drop 1 {UNREACHABLE}",
    f"copy --from {UNREACHABLE[8:]} --to sqlite:///{{new}}",
)
HOLDING: Final = ("init", "migrate", "serve", "restore {new}", "restore --dry-run {new}")
PRINTING: Final = ("config show", "--version", "operator create", "backup {new}")


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


@pytest.mark.parametrize("words", PRINTING)
def test_unwritable_output_is_one_error_line(data: Path, tmp_path: Path, words: str) -> None:
    """A full device on standard output gives exit code 3 and no traceback, even at exit."""
    with Path("/dev/full").open("w", encoding="ascii") as full:
        words = words.format(new=tmp_path / "new")
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


def commands(group: click.Group = cli, prefix: str = "") -> Iterator[str]:
    """The names of all commands, with those of their groups."""
    for name, member in group.commands.items():
        if isinstance(member, click.Group):
            yield from commands(member, f"{prefix}{name} ")
        else:
            yield prefix + name


def covered(*tables: Sequence[str]) -> set[str]:
    """The commands that the tables end with."""
    ended = [row.rpartition("; ")[2] for table in tables for row in table]
    return {name for name in commands() for row in ended if row.startswith(name)}


def test_tables_have_each_command_with_each_code() -> None:
    """A command that is added later needs a row for success and one for a temporary failure."""
    assert set(commands()) == covered(DONE)
    assert set(commands()) == covered(UNCERTAIN, HOLDING, PRINTING)


@pytest.fixture
def copied(data: Path, tmp_path: Path) -> Path:
    """A data folder that the test may change."""
    return Path(shutil.copytree(data, tmp_path / "data"))


def outcome_of(row: str, data: Path) -> Outcome:
    """Run the commands of a row on a data folder; return the last outcome."""
    *first, last = row.format(data=data, new=data.with_name("new")).split("; ")
    settings = {"KEYAUTHORITY_DATA": str(data)}
    for words in first:
        assert 0 == shared().run(*words.split(), settings=settings).code
    return shared().run(*last.split(), settings=settings)


def test_serve_exits_0_after_a_drain(copied: Path) -> None:
    """SIGTERM ends it."""
    assert 0 == shared().start(copied).stop().code


_TERMINATED: Final = """
import os, signal
from keyauthority_server import commands
from keyauthority_server.runtime import bootstrap

prepare = bootstrap.prepare

async def terminated(settings):
    founded = await prepare(settings)
    os.kill(os.getpid(), signal.SIGTERM)
    return founded

bootstrap.prepare = terminated
commands.main()
"""


def test_serve_terminated_while_it_prepares_exits_0(data: Path) -> None:
    """It neither serves nor dies of the signal."""
    outcome = run("serve", "--data", str(data), program=(sys.executable, "-c", _TERMINATED))
    assert (0, "") == (outcome.code, outcome.output), outcome.log


@pytest.mark.parametrize("row", [row for row in DONE if row != "serve"])
def test_command_that_did_its_work_exits_0(copied: Path, row: str) -> None:
    """No error line is printed."""
    outcome = outcome_of(row, copied)
    assert (0, False) == (outcome.code, "keyauthority-server: " in outcome.log), outcome.log


@pytest.mark.parametrize(
    ("code", "row"),
    [
        *((1, row) for row in REFUSED),
        *((2, row) for row in WRONG),
        *((2, f"{name} --no-such-option") for name in commands()),
        *((3, row) for row in UNCERTAIN),
    ],
)
def test_exit_code_tells_if_a_retry_can_help(copied: Path, code: int, row: str) -> None:
    """1 refused, 2 usage or configuration, 3 not possible now; one line each."""
    outcome = outcome_of(row, copied)
    assert (code, "", 1) == (outcome.code, outcome.output, outcome.log.count("\n")), outcome.log
    assert outcome.log.startswith("keyauthority-server: ")


@pytest.mark.parametrize("row", HOLDING)
def test_command_that_needs_the_folder_alone_exits_3_while_it_is_used(
    copied: Path, row: str
) -> None:
    """A later attempt can succeed."""
    with hold_folder(copied):
        outcome = outcome_of(row, copied)
    line = f"keyauthority-server: another server is using the data folder {copied}\n"
    assert (3, "", line) == outcome


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


def test_help_follows_the_width_of_the_terminal() -> None:
    """Standard output is replaced at the start, and is still asked for its width."""
    controller, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 56, 0, 0))
    variables = {name: text for name, text in environment().items() if name != "COLUMNS"}
    try:
        subprocess.run([*command("--help")], stdout=terminal, env=variables, check=True)
        text = os.read(controller, 65_536).decode()
    finally:
        os.close(terminal)
        os.close(controller)
    assert 50 < max(map(len, text.split("\r\n"))) <= 56
