"""A database altered by an attacker without pepper and audit key, on both engines.

The effect on a start, on a restore and on the commands, and their messages.
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
from click import ClickException
from click.testing import CliRunner

from keyauthority.token import SecretKey
from keyauthority_server.commands import cli
from keyauthority_server.config import Config, ConfigError, load
from keyauthority_server.runtime.bootstrap import open_authority, prepare
from keyauthority_server.runtime.restore import RestoreRefused, restore
from keyauthority_server.store.interface import StoreError
from keyauthority_server.store.sqlite.backup import back_up
from tests.faults.folders import Process, settings
from tests.postgres import Cluster, execute
from tests.service.imports import new_token

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
        if isinstance(result.exception, ClickException):
            return result.exception.exit_code, result.output + result.exception.message
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
def test_database_without_check_values_is_refused(
    folder: Folder, condition: str, lacking: str
) -> None:
    """Otherwise any pepper would be accepted, and no token would verify again."""
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


def test_missing_check_value_of_one_version_is_refused(folder: Folder) -> None:
    """Each version used by a key or an entry must be known."""
    assert 0 == folder.command("pepper", "rotate")[0]
    asyncio.run(prepare(folder.settings))  # all is well: keys are under 1 still
    folder.run("DELETE FROM key_check WHERE name = 'pepper/1'")
    assert "pepper/1" in folder.refusal()


def test_foreign_check_values_are_refused(folder: Folder) -> None:
    """The error is one line for any name."""
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
def test_newest_time_without_a_valid_mac_is_refused(folder: Folder, name: str) -> None:
    """A start fails and every change is refused, each with one line."""
    folder.run(*TIMES[name].split(";"))
    with pytest.raises(ConfigError, match="time of the log"):
        asyncio.run(opened(folder))
    for words in (("operator", "create"), ("pepper", "rotate")):
        code, text = folder.command(*words)
        assert (2, True) == (code, "time of the log" in text), text
    code, text = folder.command("audit", "verify")
    assert 1 == code
    assert "newest time" in text or "MAC of the entry" in text


async def opened(folder: Folder) -> None:
    """Start as `serve` does: prepare the folder, then open the authority."""
    await prepare(folder.settings)
    try:
        async with open_authority(folder.settings, checkpoints=False):
            pass
    except StoreError as failure:  # of a worker: its supervisor tells
        raise ConfigError(str(failure)) from failure


EXCHANGE: Final = (
    "UPDATE key SET digest = CAST({2} || {3} AS {4}) FROM key AS other"
    " WHERE key.access_key IN ('{0}', '{1}') AND other.access_key IN ('{0}', '{1}')"
    " AND key.access_key <> other.access_key"
)


@pytest.mark.parametrize(
    "parts",
    [
        ("substr(other.digest, 1, 32)", "substr(other.digest, 33)"),
        ("substr(other.digest, 1, 32)", "substr(key.digest, 33)"),
        ("substr(other.digest, 1, 32)", "substr(key.digest, 1, 0)"),
    ],
    ids=["whole", "first part", "first part alone"],
)
async def test_token_of_an_imported_key_is_of_no_use_for_another(
    folder: Folder, parts: tuple[str, str]
) -> None:
    """With their digests exchanged both are unknown, and the revoked one stays refused."""
    tokens = new_token(), new_token()
    await prepare(folder.settings)

    async def verdicts() -> list[str]:
        return [await process.verdict(SecretKey(token)) for token in tokens]

    async with open_authority(folder.settings, checkpoints=False) as authority:
        process = Process(authority, folder.data)
        names = await process.import_keys(*tokens)
        await process.revoke(names[0])
        assert ["revoked", "valid"] == await verdicts()
    folder.run(EXCHANGE.format(*names, *parts, "BYTEA" if folder.url else "BLOB"))
    async with open_authority(folder.settings, checkpoints=False) as authority:
        process = Process(authority, folder.data)
        assert ["unknown", "unknown"] == await verdicts()


def test_newest_time_of_an_older_version_is_that_of_the_last_entry(folder: Folder) -> None:
    """A log whose newest time has no MAC yet is served and signed with its next change."""
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
def test_extreme_times_and_numbers_are_one_error_line(folder: Folder, number: str) -> None:
    """In keys, projects, entries and denials, for every command that reads them."""
    folder.run(*(statement.format(number) for statement in SET_TIMES))
    code, text = folder.command("audit", "verify")
    assert (1, True) == (code, "altered" in text)
    folder.run(SET_CHANGE_TIME.format(number))
    code, text = folder.command("audit", "verify")
    assert (1, True) == (code, "the row holds no valid entry" in text)


@pytest.mark.parametrize("column", ["project_id", "display_name"])
def test_printed_text_neither_steers_a_terminal_nor_forges_a_line(
    folder: Folder, column: str
) -> None:
    """An altered row is one line of audit verify's output."""
    folder.run(RENAME.format(column, ESCAPES))
    code, text = folder.command("audit", "verify")
    assert 1 == code
    lines = text.splitlines()
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith("log is whole") for line in lines)
    assert lines[-1].startswith(f"the log was altered: {len(lines) - 1} finding")


def test_malformed_log_id_is_refused_at_open(folder: Folder) -> None:
    """A start and each command fail with one line that does not show it."""
    folder.run(LOG_ID.format(ESCAPES))
    assert "log_id" in folder.refusal()
    for words in (("audit", "verify"), ("pepper", "status"), ("operator", "create")):
        code, text = folder.command(*words)
        assert (2, True) == (code, "its log_id is no UUID" in text), words
        assert "\x1b" not in text


def test_impossible_revision_is_refused_at_open(folder: Folder) -> None:
    """It is refused even if the last entry has the same revision."""
    folder.run(*FAR)
    assert "revision" in folder.refusal()


WIDENED: Final = "UPDATE key SET permissions = '[\"keys:*\"]'"


def test_backup_with_altered_records_is_not_restored(first: Path, tmp_path: Path) -> None:
    """Restore verifies the log and compares each record before it installs the backup."""
    file, made = tmp_path / "backup.db", Folder(tmp_path / "data", None)
    shutil.copytree(first, made.data)
    back_up(made.data / "keyauthority.db", tmp_path / "whole.db")
    whole = restore(settings(first), tmp_path / "whole.db", accept_unknown=True, dry_run=True)
    assert "" == whole.unknown
    made.run(WIDENED)
    back_up(made.data / "keyauthority.db", file)
    with pytest.raises(ConfigError, match=r"was altered: revision 1: .*permissions"):
        restore(settings(first), file, accept_unknown=True, dry_run=True)


def test_restore_over_altered_records_needs_confirmation(first: Path, tmp_path: Path) -> None:
    """A revocation undone in its row would not be carried over."""
    file, made = tmp_path / "backup.db", Folder(tmp_path / "data", None)
    shutil.copytree(first, made.data)
    back_up(made.data / "keyauthority.db", file)
    made.run(WIDENED)
    with pytest.raises(RestoreRefused, match=r"was altered.*--accept-unknown"):
        restore(made.settings, file, accept_unknown=False, dry_run=False)


def test_backup_without_check_values_is_not_restored(first: Path, tmp_path: Path) -> None:
    """A wrong pepper would be accepted afterwards."""
    file, made = tmp_path / "backup.db", Folder(tmp_path / "data", None)
    shutil.copytree(first, made.data)
    made.run("DELETE FROM key_check")
    back_up(made.data / "keyauthority.db", file)
    with pytest.raises(ConfigError, match="lacks the check value of pepper/1"):
        restore(settings(first), file, accept_unknown=True, dry_run=True)
