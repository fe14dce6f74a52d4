"""A wrong pepper prevents the start, and its rotation loses no key.

Two processes on one store are two authorities in here: each has its connections and its keyring.
"""

from __future__ import annotations

import asyncio
import shutil
import uuid
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

import pytest

from keyauthority.clock import SystemClock
from keyauthority.errors import KeyAuthorityError
from keyauthority.model import KeyKind
from keyauthority.requests import NewKey
from keyauthority.results import CreatedKey
from keyauthority.token import SecretKey
from keyauthority_server import background
from keyauthority_server.audit import verify
from keyauthority_server.config import ConfigError
from keyauthority_server.keyring import Keyring, add_version
from keyauthority_server.runtime.bootstrap import AdminSession, open_audit, prepare
from keyauthority_server.runtime.restore import restore
from keyauthority_server.runtime.supervisor import hold_folder
from keyauthority_server.services import pepper_rotation
from keyauthority_server.services.local_admin import create_operator
from keyauthority_server.services.page_tokens import PageTokens
from keyauthority_server.services.pepper_rotation import DropRefused
from keyauthority_server.services.rehash import Rehasher
from keyauthority_server.store.interface import StoreUnavailable
from keyauthority_server.store.sql.queries.digests import versions_in_use
from keyauthority_server.store.sqlite.backup import back_up
from tests.faults.folders import (
    drop,
    on_machine,
    process,
    rotate,
    settings,
    states,
    until_made_anew,
)
from tests.service.imports import new_token

WRONG = f"1 {'ab' * 32}\n"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder after its first start."""
    data = tmp_path_factory.mktemp("made") / "data"
    data.mkdir(mode=0o700)
    asyncio.run(prepare(settings(data)))
    return data


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Digests are upgraded 20 times a second."""
    monkeypatch.setattr(background, "FLUSH_SECONDS", 0.05)


@pytest.fixture
def data(made: Path, tmp_path: Path) -> Path:
    """A data folder of the test's own."""
    return Path(shutil.copytree(made, tmp_path / "data"))


def refusal(data: Path) -> str:
    """The one line that a start is refused with."""
    with pytest.raises(ConfigError) as refused:
        asyncio.run(prepare(settings(data)))
    assert 1 == len(str(refused.value).splitlines())
    return str(refused.value)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "cannot read {}: No such file or directory"),
        (WRONG, "{} does not match the database: put the right file back"),
        (WRONG[:-3] + "\n", "{} is damaged: each line is a version and 64 hex digits"),
        ("", "{} is damaged: each line is a version and 64 hex digits"),
        (f"2{WRONG[1:]}", "{} does not match the database"),
    ],
)
@pytest.mark.parametrize("name", ["pepper", "audit.key"])
def test_wrong_key_file_is_refused(data: Path, name: str, text: str | None, reason: str) -> None:
    """Missing, wrong, short, empty or of another version: one line, nothing created."""
    file = data / name
    file.unlink()
    if text is not None:
        file.write_text(text)
        file.chmod(0o600)
    assert refusal(data).startswith(reason.format(file))
    assert (text is not None) == file.exists()


@pytest.mark.parametrize("name", ["pepper", "audit.key"])
def test_new_key_file_beside_a_filled_database_is_refused(data: Path, name: str) -> None:
    """A well-formed file of another first start is detected."""
    (data / name).unlink()
    Keyring.create(data / name)
    assert f"{data / name} does not match the database" in refusal(data)


async def test_without_the_check_a_wrong_pepper_makes_all_keys_unknown(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: the server starts, and its operator is not authenticated."""
    (data / "pepper").write_text(WRONG)
    monkeypatch.setattr(Keyring, "verify_against", lambda *_: None)
    monkeypatch.setattr(Keyring, "use", lambda *_: None)
    await prepare(settings(data))
    async with process(data) as one:
        with pytest.raises(KeyAuthorityError, match="invalid credential"):
            await one.project()


@pytest.mark.parametrize(
    "name", ["pepper", "audit.key", "operator.key", "keyauthority.db", "keyauthority-counters.db"]
)
def test_file_readable_by_others_is_refused(data: Path, name: str) -> None:
    """Files with secrets or digests must be private to their owner."""
    (data / name).chmod(0o604)
    assert f"{data / name} is open to others; make it private: chmod 600 {data / name}" == refusal(
        data
    )


def test_folder_opened_to_others_is_refused(data: Path) -> None:
    """A filled folder is not closed silently: others may have read it."""
    (data / "supervisor.lock").touch()
    data.chmod(0o705)
    reason = f"open to others; make it private: chmod 700 {data}"
    with pytest.raises(ConfigError, match=reason), hold_folder(data):
        pass


async def test_pepper_rotation_reaches_every_process_at_once(data: Path) -> None:
    """A key under a new version verifies in a process that has not loaded the version."""
    async with process(data) as one, process(data) as other:
        project = await one.project()
        old = await one.create(project)
        assert 2 == await rotate(data)
        new = await one.create(project)
        state, keys = (await states(data))[2]
        assert "current" == state
        assert keys in (
            1,
            2,
        )  # the new key, and the operator's own if its digest is upgraded by now
        assert ["valid", "valid"] == [await other.verdict(x.secret_key) for x in (new, old)]


async def test_missing_pepper_version_is_unavailable_not_a_denial(
    data: Path, tmp_path: Path
) -> None:
    """A server without the new file reports UNAVAILABLE; with it, it verifies."""
    second = Path(shutil.copytree(data, tmp_path / "second"))
    async with process(data) as one, process(second, data / "keyauthority.db") as other:
        project = await one.project()
        await rotate(data)
        new = await one.create(project)
        with pytest.raises(StoreUnavailable):
            await other.verdict(new.secret_key)
        with pytest.raises(StoreUnavailable):
            await other.create(project)
        shutil.copy2(data / "pepper", second / "pepper")
        assert "valid" == await other.verdict(new.secret_key)


async def test_prepared_pepper_version_is_not_used_before_rotation(
    data: Path, tmp_path: Path
) -> None:
    """On several servers the file is copied everywhere before the version is used."""
    second = Path(shutil.copytree(data, tmp_path / "second"))
    assert 2 == await rotate(data, prepare=True)
    shutil.copy2(data / "pepper", second / "pepper")
    await prepare(settings(data))
    async with process(data) as one, process(second, data / "keyauthority.db") as other:
        project = await one.project()
        await one.create(project)
        assert {1: ("current", 2), 2: ("waiting", 0)} == await states(data)
        assert 2 == await rotate(data)
        made = await one.create(project)
        assert "valid" == await other.verdict(made.secret_key)
        assert "valid" == await one.verdict((await other.create(project)).secret_key)


async def test_killed_pepper_rotation_resumes(data: Path) -> None:
    """Between file and database a server starts, and the command completes the version."""

    async def add(machine: AdminSession) -> int:
        return add_version(machine.peppers.path, machine.key_checks)

    assert 2 == await on_machine(data, add)
    await prepare(settings(data))
    assert {1: ("current", 1), 2: ("waiting", 0)} == await states(data)
    assert 2 == await rotate(data)
    assert {1: ("old", 1), 2: ("current", 0)} == await states(data)
    (data / "pepper").write_text((data / "pepper").read_text().splitlines(keepends=True)[0])
    assert "(version 2)" in await asyncio.to_thread(refusal, data)


async def test_old_digest_is_upgraded_at_its_next_verify(data: Path) -> None:
    """It is no change; afterwards, and only then, the old version can be dropped."""
    async with process(data) as one:
        project = await one.project()
        old, ended = await one.create(project, str(uuid.uuid4())), await one.create(project)
        await rotate(data)
        with pytest.raises(DropRefused) as refused:
            await drop(data, 1)
        assert str(refused.value).startswith("keys need version 1 until they are verified")
        assert ", 3 of them: KA" in str(refused.value)
        assert old.key.access_key in str(refused.value)
        await one.revoke(ended.key.access_key)
        head = await one.head()
        await until_made_anew(data, lambda: one.verdict(old.secret_key), 1)
        assert head == await one.head()
        with pytest.raises(DropRefused, match="answers to requests are sealed under version 1"):
            await drop(data, 1)
        assert await drop(data, 1, later=timedelta(hours=24))
        assert "valid" == await one.verdict(old.secret_key)
    assert {1: ("gone", 0), 2: ("current", 2)} == await states(data)
    async with process(data) as again:
        assert "valid" == await again.verdict(old.secret_key)
        assert "unknown" == await again.verdict(ended.secret_key)


async def test_imported_digest_is_upgraded_at_its_next_verify(data: Path) -> None:
    """Rotation covers digests of other systems; without the old version the key still verifies."""
    token = new_token()
    async with process(data) as one:
        await one.import_keys(token)
        await rotate(data)
        await until_made_anew(data, lambda: one.verdict(SecretKey(token)), 1)
        await until_made_anew(data, one.own_verdict, 1)
        assert await drop(data, 1, later=timedelta(hours=24))
    async with process(data) as again:
        assert "valid" == await again.verdict(SecretKey(token))
        assert "unknown" == await again.verdict(SecretKey(new_token()))


async def test_killed_pepper_drop_resumes(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between database and file a server starts, and the command clears the file."""
    await rotate(data)
    async with process(data) as one:
        await until_made_anew(data, one.own_verdict, 1)

    def killed(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(pepper_rotation, "remove_version", killed)
        with pytest.raises(KeyboardInterrupt):
            await drop(data, 1)
    await prepare(settings(data))
    assert {1: ("dropped", 0), 2: ("current", 1)} == await states(data)
    assert not await drop(data, 1)
    assert {2: ("current", 1)} == await states(data)
    with pytest.raises(DropRefused, match="there is no version 1"):
        await drop(data, 1)


async def test_old_database_with_a_dropped_pepper_version_is_refused(data: Path) -> None:
    """A backup from before a drop needs its pepper; one line names the version."""
    await rotate(data)
    (data / "pepper").write_text((data / "pepper").read_text().splitlines(keepends=True)[1])
    assert "put the right file back (version 1)" in await asyncio.to_thread(refusal, data)


async def test_key_is_never_created_under_a_dropped_version(data: Path) -> None:
    """A process unaware of the rotation checks the database in its transaction."""
    asleep = Keyring.load(data / "pepper")
    await rotate(data)
    async with process(data) as one:
        await until_made_anew(data, one.own_verdict, 1)
    await drop(data, 1)
    new = NewKey(kind=KeyKind.OPERATOR, permissions=("keys:read",))

    async def create(machine: AdminSession) -> CreatedKey:
        return await create_operator(machine.store, asleep, new)

    assert "machine" == (await on_machine(data, create)).key.created_by
    assert {2: ("current", 2)} == await states(data)


async def test_digest_is_not_upgraded_to_an_outdated_version(data: Path) -> None:
    """Upgrades queued before another rotation are discarded."""
    text = (data / "operator.key").read_text().strip()
    await rotate(data)

    async def note(machine: AdminSession) -> None:
        keeper = Rehasher(machine.store, machine.peppers)
        snapshot = await machine.store.read(text.split("_")[2], None)
        assert snapshot.stored
        keeper.enqueue(snapshot.stored, text.encode())
        await rotate(data)
        await keeper.flush()

    await on_machine(data, note)
    assert {1: ("old", 1), 2: ("old", 0), 3: ("current", 0)} == await states(data)


async def test_request_is_replayed_after_a_pepper_rotation(data: Path) -> None:
    """Its token is opened under the version that sealed it."""
    request_id = str(uuid.uuid4())
    async with process(data) as one:
        project = await one.project()
        first = await one.create(project, request_id)
        await rotate(data)
        assert first.secret_key == (await one.create(project, request_id)).secret_key


def test_page_token_stays_valid_through_a_pepper_rotation(tmp_path: Path) -> None:
    """Old tokens work after it, and new ones in a process that has not loaded it."""
    old, new = bytes(32), bytes(range(32))
    before, after = (
        PageTokens(Keyring(tmp_path / "pepper", keys)) for keys in ({1: old}, {1: old, 2: new})
    )
    dropped = PageTokens(Keyring(tmp_path / "pepper", {2: new}))
    for maker, reader in ((before, after), (after, before), (after, after)):
        assert 7 == reader.decode("KA1", b"query", maker.encode("KA1", b"query", 7))
    with pytest.raises(KeyAuthorityError, match="page_token"):
        dropped.decode("KA1", b"query", before.encode("KA1", b"query", 7))


async def test_added_version_of_the_audit_key_waits_for_a_start(data: Path) -> None:
    """No process signs entries under a version that the database cannot name."""
    add_version(data / "audit.key", await on_machine(data, known_checks))
    operator = NewKey(kind=KeyKind.OPERATOR, permissions=("keys:read",))

    async def create(machine: AdminSession) -> CreatedKey:
        return await create_operator(machine.store, machine.peppers, operator)

    await on_machine(data, create)
    async with process(data) as one:  # a worker that replaces another
        await one.create(await one.project())
    assert ({1}, []) == await sealed(data)
    await prepare(settings(data))
    async with process(data) as one:
        await one.create(await one.project())
    assert ({1, 2}, []) == await sealed(data)


async def test_restore_records_an_added_version_of_the_audit_key(
    data: Path, tmp_path: Path
) -> None:
    """The changes that it carries over are sealed under it."""
    async with process(data) as one:
        made = await one.create(await one.project())
    database = settings(data).store.sqlite_path
    await asyncio.to_thread(back_up, database, tmp_path / "backup.db")
    async with process(data) as one:
        await one.revoke(made.key.access_key)
    add_version(data / "audit.key", await on_machine(data, known_checks))
    done = await asyncio.to_thread(
        restore, settings(data), tmp_path / "backup.db", accept_unknown=False, dry_run=False
    )
    assert [made.key.access_key] == done.revoked
    await prepare(settings(data))
    assert ({1, 2}, []) == await sealed(data)


async def known_checks(machine: AdminSession) -> Mapping[str, bytes]:
    """The check values in the database."""
    return machine.key_checks


async def sealed(data: Path) -> tuple[set[int], Sequence[object]]:
    """The versions that entries are sealed under, and the findings of the verification."""
    async with open_audit(settings(data)) as (store, audit_key):
        versions = (await store.query(versions_in_use, SystemClock().now())).audit_key
        return set(versions), (await verify(store, audit_key, None)).findings
