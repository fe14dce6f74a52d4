"""kill -9 of `keyauthority keys import`, and of the server beneath it: no key is half imported."""

from __future__ import annotations

import csv
import hashlib
import json
import random
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import pytest

import keyauthority
from keyauthority import VerdictCode
from keyauthority_server.services.key_import import KEYS_AT_ONCE
from tests.conftest import Start
from tests.faults.oracle import PostgresStore, SqliteStore, Store
from tests.faults.test_kills import kill_some
from tests.proofs import Proof, scaled
from tests.service.imports import new_token
from tests.service.processes import Outcome, ServerProcess, environment, wait_until

ROWS: Final = 1200  # of a table: two calls
KILLS: Final = {"sqlite": scaled(2, 10), "postgres": scaled(2, 4)}
COMMAND_SECONDS: Final = 60
UNREACHABLE: Final = 3  # the exit code


@dataclass
class World:
    """A server that is started again, and the tables that were imported."""

    start: Callable[[], ServerProcess]
    store: Store
    server: ServerProcess
    folder: Path
    tables: list[Table] = field(default_factory=list)

    def client(self) -> keyauthority.Client:
        """Connect as the first operator."""
        return keyauthority.Client(self.server.address, operator_key=self.server.operator_key)

    def import_table(self, table: Table) -> subprocess.Popen[str]:
        """Start the command on the whole table."""
        return subprocess.Popen(
            [sys.executable, "-m", "keyauthority.cli", "keys", "import", *table.arguments],
            env=environment(
                {
                    "KEYAUTHORITY_ADDRESS": self.server.address,
                    "KEYAUTHORITY_OPERATOR_KEY": self.server.operator_key,
                }
            ),
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )


@dataclass(frozen=True)
class Table:
    """The table of another system; each has an import set of its own."""

    file: Path
    project_id: str
    tokens: Sequence[str]

    @property
    def import_set(self) -> str:
        """The name of the set."""
        return self.file.stem

    @property
    def arguments(self) -> Sequence[str]:
        """The arguments of the command."""
        return (
            *(str(self.file), "--from", "csv", "--import-set", self.import_set, "--json"),
            *("--scheme", "sha256_hex", "--token-prefix", "old_", "--kind", "restricted"),
            *("--token-length-min", "36", "--token-length-max", "36"),
            *("--project-id", self.project_id, "--mode", "live"),
        )


def new_table(world: World) -> Table:
    """Write a table of new tokens; `foreign_id` is the number of the row."""
    with world.client() as client:
        project_id = client.create_project("moved").project_id
    file = world.folder / f"table-{len(world.tables)}.csv"
    table = Table(file, project_id, [new_token() for _ in range(ROWS)])
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(("digest", "foreign_id", "purpose", "permissions", "labels"))
        for row, token in enumerate(table.tokens):
            digest = hashlib.sha256(token.encode()).hexdigest()
            writer.writerow((digest, str(row), f"key {row}", "orders:read", '{"team": "shop"}'))
    world.tables.append(table)
    return table


def ended(running: subprocess.Popen[str]) -> Outcome:
    """Wait for the command's end."""
    output, log = running.communicate(timeout=COMMAND_SECONDS)
    return Outcome(running.returncode, output, log)


def revision(client: keyauthority.Client) -> int:
    """Return the newest revision."""
    return client.verify("").revision


def kill_midway(world: World, table: Table, victim: str, keys: int) -> None:
    """Import a table, and kill the victim once so many keys are there."""
    with world.client() as client:
        before = revision(client)
        running = world.import_table(table)
        try:
            wait_until(lambda: revision(client) >= before + keys or running.poll() is not None)
            if victim == "server":
                kill_some(world.server, [world.server.process.pid, *world.server.worker_pids()])
        finally:
            if victim == "command":
                running.kill()
            outcome = ended(running)
    if victim == "command":
        world.server.stop()  # a call of the killed command may not have ended
    elif outcome.code:  # else the import was faster
        assert (UNREACHABLE, "UNAVAILABLE") == (outcome.code, json.loads(outcome.log)["code"])
    world.server = world.start()


def imported(world: World, table: Table) -> int:
    """Return how many keys of a table are there: a part from its beginning, each key whole."""
    assert [] == world.store.faults()
    head, revisions = world.store.revisions()
    assert list(range(1, head + 1)) == revisions
    made = world.store.made()
    assert made.keys == made.changes
    with world.client() as client:
        verdicts = [
            verdict
            for first in range(0, ROWS, 1000)
            for verdict in client.batch_verify(table.tokens[first:][:1000])
        ]
        listed = {key.foreign_id: key for key in client.list_keys(import_set=table.import_set)}
    number = sum(verdict.valid for verdict in verdicts)
    assert 0 == number % KEYS_AT_ONCE  # what one transaction imports is there or absent as a whole
    assert [row < number for row in range(ROWS)] == [verdict.valid for verdict in verdicts]
    absent = {VerdictCode.UNKNOWN, VerdictCode.MALFORMED}  # the latter before the set exists
    assert absent >= {verdict.code for verdict in verdicts[number:]}
    assert set(map(str, range(number))) == set(listed)
    for row, verdict in enumerate(verdicts[:number]):
        key = listed[str(row)]
        assert (verdict.access_key, table.project_id) == (key.access_key, key.project_id)
        assert (f"key {row}", ("orders:read",)) == (key.purpose, key.permissions)
        assert {"team": "shop"} == dict(key.labels)
    return number


def repeat(world: World, table: Table, present: int) -> None:
    """Import a table again: it imports what is missing, and repeats the rest."""
    outcome = ended(world.import_table(table))
    assert 0 == outcome.code, outcome.log
    report: Mapping[str, object] = json.loads(outcome.output)
    assert (ROWS - present, present, []) == tuple(
        report[name] for name in ("imported", "repeated", "refused")
    )
    assert ROWS == imported(world, table)


@pytest.mark.case(19)
@pytest.mark.parametrize("engine", ["sqlite", pytest.param("postgres", marks=pytest.mark.prove)])
def test_killed_import_is_completed_by_its_repetition(
    start_server: Start,
    engine: str,
    data: Path,
    tmp_path: Path,
    proof: Proof,
    request: pytest.FixtureRequest,
) -> None:
    """Killed at any moment, the command or the server: whole keys, in order, and the rest later."""
    flags: Sequence[str] = ()
    store: Store = SqliteStore(data)
    if engine == "postgres":
        url = request.getfixturevalue("cluster").create()
        flags, store = ("--store", url, "--max-staleness", "30s"), PostgresStore(data, url)
    world = World(lambda: start_server(*flags), store, start_server(*flags), tmp_path)
    drawn = random.Random(seed := random.randrange(2**32))
    midway = keys = 0
    done = table = new_table(world)
    while midway < KILLS[engine]:
        victim = ("server", "command")[midway % 2]
        try:
            kill_midway(world, table, victim, drawn.randrange(1, ROWS // 2))
            present = imported(world, table)
            repeat(world, table, present)
        except AssertionError as failure:
            failure.add_note(f"seed {seed}, {table.file}, {victim} killed")
            raise
        midway += 0 < present < ROWS
        keys += present
        done, table = table, new_table(world)
    with pytest.raises(AssertionError):  # the control
        imported(world, replace(done, tokens=[*done.tokens[1:], done.tokens[0]]))
    proof.done(f"{engine}: {midway} kills midway, {keys} keys there before, all after a repetition")
    proof.control("keys of other rows were seen")
