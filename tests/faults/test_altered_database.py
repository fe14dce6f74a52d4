"""A database altered by whoever can write it, without pepper and audit key, on both engines.

What a start, a restore and the commands believe of it, and what they print of it.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

import pytest
from click.testing import CliRunner

from keyauthority_server.commands import cli
from keyauthority_server.config import Config, ConfigError, load
from keyauthority_server.runtime.bootstrap import open_authority, prepare
from keyauthority_server.runtime.restore import RestoreRefused, restore
from keyauthority_server.store.interface import StoreError
from keyauthority_server.store.sqlite.backup import back_up
from tests.faults.folders import settings
from tests.postgres import Cluster, execute

ESCAPES: Final = "\x1b]0;x\x07\x1b[2J\nlog is whole\u202e"


UNLOCKED: Final = (
    "ALTER TABLE change DISABLE TRIGGER USER; {}; ALTER TABLE change ENABLE TRIGGER USER"
)
FORGET: Final = "DELETE FROM key_check WHERE {}"
RENAME: Final = "UPDATE project SET {} = '{}'"
LOG_ID: Final = "UPDATE log SET log_id = '{}'"
FAR: Final = (
    (
        "UPDATE change SET revision = 9223372036854775807"
        " WHERE revision = (SELECT max(revision) FROM change)"
    ),
    "UPDATE log SET revision = 9223372036854775807",
)


class Folder(NamedTuple):
    """A data folder, after its first start, and how its database is altered."""

    data: Path
    url: str | None

    @property
    def settings(self) -> Config:
        """The settings of a server on it."""
        flags = {"data": str(self.data), "store": self.url}
        return load({name: value for name, value in flags.items() if value}, {})

    @property
    def arguments(self) -> list[str]:
        """The same for a command."""
        return ["--data", str(self.data), *(["--store", self.url] if self.url else [])]

    def run(self, *statements: str) -> None:
        """Alter the database behind the server's back: append-only triggers are put back."""
        if self.url:
            for statement in statements:
                execute(self.url, UNLOCKED.format(statement))
            return
        with closing(sqlite3.connect(self.data / "keyauthority.db", isolation_level=None)) as file:
            triggers = file.execute("SELECT name, sql FROM sqlite_schema WHERE type = 'trigger'")
            made = triggers.fetchall()
            for name, _ in made:
                file.execute(f"DROP TRIGGER {name}")
            for statement in statements:
                file.execute(statement)
            for _, text in made:
                file.execute(text)

    def refusal(self) -> str:
        """Start on it, and return the one line that refuses."""
        with pytest.raises(ConfigError) as refused:
            asyncio.run(prepare(self.settings))
        assert "\n" not in str(refused.value)
        return str(refused.value)

    def command(self, *words: str) -> tuple[int, str]:
        """Run a command; return its exit code and all that it printed."""
        result = CliRunner().invoke(cli, [*words, *self.arguments], standalone_mode=False)
        if isinstance(result.exception, ConfigError):
            return 2, result.output + str(result.exception)
        assert result.exception is None, result.exc_info
        return int(result.return_value or 0), result.output


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder after its first start, on SQLite."""
    data = tmp_path_factory.mktemp("made") / "data"
    data.mkdir(mode=0o700)
    asyncio.run(prepare(settings(data)))
    return data


@pytest.fixture(params=["sqlite", "postgres"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    """One of the test's own, on each engine in turn."""
    data = tmp_path / "data"
    if request.param == "sqlite":
        shutil.copytree(request.getfixturevalue("first"), data)
        yield Folder(data, None)
        return
    cluster: Cluster = request.getfixturevalue("cluster")
    data.mkdir(mode=0o700)
    made = Folder(data, cluster.take())
    asyncio.run(prepare(made.settings))
    yield made
    cluster.release()


@pytest.mark.parametrize(
    ("condition", "lacking"),
    [
        ("TRUE", "pepper/1"),
        ("name = 'pepper/1'", "pepper/1"),
        ("name = 'audit.key/1'", "audit.key/1"),
    ],
)
def test_filled_database_that_lacks_check_values_starts_nothing(
    folder: Folder, condition: str, lacking: str
) -> None:
    """Else any pepper would be taken for the right one, and no token verify again."""
    folder.run(FORGET.format(condition))
    assert lacking in folder.refusal()
    assert "damaged" in folder.refusal()
    code, text = folder.command("pepper", "status")
    assert (2, True) == (code, "damaged" in text)
    if lacking == "pepper/1":
        (folder.data / "pepper").write_text(f"1 {'ab' * 32}\n")
        assert lacking in folder.refusal()
    if "pepper" not in condition:
        code, text = folder.command("audit", "verify")
        assert (2, True) == (code, "lacks the check value of audit.key/1" in text)


def test_check_value_of_one_version_of_several_is_missed(folder: Folder) -> None:
    """Each version that a key or an entry was made under has to be known."""
    assert 0 == folder.command("pepper", "rotate")[0]
    asyncio.run(prepare(folder.settings))  # all is well: keys are under 1 still
    folder.run("DELETE FROM key_check WHERE name = 'pepper/1'")
    assert "pepper/1" in folder.refusal()


def test_check_values_that_no_server_wrote_are_refused(folder: Folder) -> None:
    """In one line, whatever the name says."""
    folder.run("UPDATE key_check SET name = 'pepper/99999999999999999999' WHERE name = 'pepper/1'")
    assert "damaged" in folder.refusal()


TIMES: Final = {
    "ahead": "UPDATE log SET time = time + 86400000000",
    "far ahead": "UPDATE log SET time = 9223372036854775807",
    "far back": "UPDATE log SET time = -9223372036854775807",
    "none": "UPDATE log SET time = NULL, time_hash = NULL",
    "seal removed": "UPDATE log SET time = time + 1, time_hash = NULL, time_key_version = NULL",
    "with the last entry": (
        "UPDATE change SET time = time + 1 WHERE revision = (SELECT revision FROM log);"
        "UPDATE log SET time = time + 1, time_hash = NULL, time_key_version = NULL"
    ),
    "version of no key": "UPDATE log SET time_key_version = 9",
}


@pytest.mark.parametrize("name", TIMES)
def test_clock_cannot_be_set_through_the_database(folder: Folder, name: str) -> None:
    """A newest time that bears no seal starts nothing, and stops each change, in one line."""
    folder.run(*TIMES[name].split(";"))
    with pytest.raises(ConfigError, match="time of the log"):
        asyncio.run(opened(folder))
    for words in (("operator", "create"), ("pepper", "rotate")):
        code, text = folder.command(*words)
        assert (2, True) == (code, "time of the log" in text), text
    code, text = folder.command("audit", "verify")
    assert 1 == code
    assert "newest time" in text or "bear its seal" in text


async def opened(folder: Folder) -> None:
    """Start as `serve` does: prepare the folder, then open the authority."""
    await prepare(folder.settings)
    try:
        async with open_authority(folder.settings, checkpoints=False):
            pass
    except StoreError as failure:  # of a worker: its supervisor tells
        raise ConfigError(str(failure)) from failure


def test_time_of_an_older_version_is_that_of_the_last_entry(folder: Folder) -> None:
    """A log whose time has no seal yet is served, and sealed with its next change."""
    folder.run(
        "UPDATE log SET time_hash = NULL, time_key_version = NULL,"
        " time = (SELECT time FROM change WHERE change.revision = log.revision)"
    )
    asyncio.run(opened(folder))
    assert (0, True) == (lambda told: (told[0], "is intact" in told[1]))(
        folder.command("audit", "verify")
    )
    assert 0 == folder.command("operator", "create")[0]
    assert 0 == folder.command("audit", "verify")[0]


SET_TIMES: Final = (
    "UPDATE key SET last_used_time = {0}, expire_time = {0}",
    "UPDATE project SET create_time = {0}",
)
SET_CHANGE_TIME: Final = "UPDATE change SET time = {} WHERE revision = 1"
EXTREMES: Final = ("9223372036854775807", "-9223372036854775808")


@pytest.mark.parametrize("number", EXTREMES)
def test_extreme_times_and_numbers_end_in_one_line(folder: Folder, number: str) -> None:
    """In keys, projects, entries and denials, of all that a command reads."""
    folder.run(*(statement.format(number) for statement in SET_TIMES))
    code, text = folder.command("audit", "verify")
    assert (1, True) == (code, "altered" in text)
    folder.run(SET_CHANGE_TIME.format(number))
    code, text = folder.command("audit", "verify")
    assert (1, True) == (code, "the row is no entry" in text)


@pytest.mark.parametrize("column", ["project_id", "display_name"])
def test_nothing_that_is_printed_steers_a_terminal_or_forges_a_line(
    folder: Folder, column: str
) -> None:
    """What audit verify tells of an altered row is one line a finding."""
    folder.run(RENAME.format(column, ESCAPES))
    code, text = folder.command("audit", "verify")
    assert 1 == code
    lines = text.splitlines()
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith("log is whole") for line in lines)
    assert lines[-1].endswith("findings: the log was altered")


def test_log_id_that_is_no_uuid_is_refused_at_open(folder: Folder) -> None:
    """By a start and by each command, in one line that shows nothing of it."""
    folder.run(LOG_ID.format(ESCAPES))
    assert "log_id" in folder.refusal()
    for words in (("audit", "verify"), ("pepper", "status"), ("operator", "create")):
        code, text = folder.command(*words)
        assert (2, True) == (code, "its log_id is no UUID" in text), words
        assert "\x1b" not in text


def test_revision_that_no_log_comes_to_is_refused_at_open(folder: Folder) -> None:
    """Though the last entry says the same."""
    folder.run(*FAR)
    assert "revision" in folder.refusal()


WIDENED: Final = "UPDATE key SET permissions = '[\"keys:*\"]'"


def test_backup_whose_records_were_altered_is_not_restored(first: Path, tmp_path: Path) -> None:
    """Its log is verified, and each record compared with it, before it is put in place."""
    file, made = tmp_path / "backup.db", Folder(tmp_path / "data", None)
    shutil.copytree(first, made.data)
    back_up(made.data / "keyauthority.db", tmp_path / "whole.db")
    whole = restore(settings(first), tmp_path / "whole.db", accept_unknown=True, dry_run=True)
    assert "" == whole.unknown
    made.run(WIDENED)
    back_up(made.data / "keyauthority.db", file)
    with pytest.raises(ConfigError, match=r"was altered: revision 1: .*permissions"):
        restore(settings(first), file, accept_unknown=True, dry_run=True)


def test_restore_over_a_database_whose_records_were_altered_asks(
    first: Path, tmp_path: Path
) -> None:
    """A revocation that was undone in its row would not be taken over: nobody can tell."""
    file, made = tmp_path / "backup.db", Folder(tmp_path / "data", None)
    shutil.copytree(first, made.data)
    back_up(made.data / "keyauthority.db", file)
    made.run(WIDENED)
    with pytest.raises(RestoreRefused, match=r"was altered.*--accept-unknown"):
        restore(made.settings, file, accept_unknown=False, dry_run=False)


def test_backup_that_lacks_check_values_is_not_restored(first: Path, tmp_path: Path) -> None:
    """The wrong pepper would be taken for the right one after it."""
    file, made = tmp_path / "backup.db", Folder(tmp_path / "data", None)
    shutil.copytree(first, made.data)
    made.run("DELETE FROM key_check")
    back_up(made.data / "keyauthority.db", file)
    with pytest.raises(ConfigError, match="lacks the check value of pepper/1"):
        restore(settings(first), file, accept_unknown=True, dry_run=True)
