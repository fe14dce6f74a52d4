"""The import of keys by their hashes, and Verify of their tokens beside native ones."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.authority import SERVICE, Authority, serving
from benchmarks.databases import postgres
from benchmarks.figures import Part
from benchmarks.load_generator import Traffic, TrafficLoad, write_bodies
from benchmarks.questions import KEYS, VALID
from benchmarks.run import LeftOut, Run, take_turns
from benchmarks.stores import NEEDED, filled
from keyauthority.model import KeyKind, KeyMode
from keyauthority.token import make, new_access_key, new_secret
from keyauthority.v1 import key_authority_service_pb2 as pb
from tests.service.processes import environment

_PREFIX: Final = "old_"
_LENGTH: Final = len(_PREFIX) + 32
_POSTGRES_KEYS: Final = 50_000  # at most; SQLite takes the greatest of --keys
_QUESTIONS: Final = 100_000  # in the file of each load, none of which is repeated
_BATCH: Final = 500  # keys that are verified at once before the first round
_MALFORMED: Final = b"\x10\x02"  # the beginning of VerifyResponse: verdict = 2
_UNKNOWN: Final = b"\x10\x03"
_NATIVE: Final = "native keys"
_IMPORTED: Final = "imported keys"
_GARBAGE: Final = "texts that fit no import set"
_NO_SET: Final = "texts, without import sets"
_UNKNOWN_NATIVE: Final = "unknown native tokens"
_UNKNOWN_FOREIGN: Final = "unknown tokens that fit a set"
_TEXT: Final = f"""\
`keyauthority keys import` of a CSV file, which checks all rows and then imports them; native
transport, server and command on a core each. Verify is asked about {KEYS:,} keys each of both
origins, in calls per second, with another client address in each call; both have the same fields.
The servers with and without import sets have the same {KEYS:,} native keys."""


def measure(run: Run) -> Part:
    """Import on both engines, then verify on SQLite, all sides in turn."""
    part = Part("Import", _TEXT)
    number = max(run.keys)
    file = run.folder / "keys.csv"
    with ExitStack() as stack:
        native = asyncio.run(filled(run.folder / "native", KEYS))
        data = native.settings.data
        without = stack.enter_context(serving(run, "without", data_from=data))
        authority = stack.enter_context(serving(run, "with", data_from=data))
        tokens = _write_table(file, number)
        _import(run, part, f"SQLite, {number:,} keys", authority, file)
        size = sum(each.stat().st_size for each in authority.server.data.iterdir())
        base = sum(each.stat().st_size for each in without.server.data.iterdir())
        part.add("bytes", {"file size per imported key": [(size - base) / number]})
        try:
            _verify(run, part, authority, without, native.tokens, tokens)
        except LeftOut as reason:
            part.left_out.append(f"Verify of imported keys: {reason}")
    number = min(number, _POSTGRES_KEYS)
    with postgres(run, durable=True) as cluster:
        flags = ("--store", cluster.create(), "--max-staleness", "30s")  # no call may be refused
        with serving(run, "postgres", *flags) as authority:
            _write_table(file, number)
            _import(run, part, f"PostgreSQL, {number:,} keys", authority, file)
    return part


def _write_table(file: Path, number: int) -> list[str]:
    """Write the table of another system; return tokens of keys from all over it."""
    every, tokens = max(number // KEYS, 1), []
    with file.open("w", newline="", encoding="ascii") as opened:
        writer = csv.writer(opened)
        writer.writerow(
            ("digest", "foreign_id", "kind", "mode", "purpose", "permissions", "labels")
        )
        for row in range(number):
            token = _foreign_token()
            if row % every == 0:
                tokens.append(token)
            digest = hashlib.sha256(token.encode()).hexdigest()
            rest = ("restricted", "live", "nightly export", f"{NEEDED} billing.*:read")
            writer.writerow((digest, f"row {row}", *rest, json.dumps({"team": "shop"})))
    return tokens


class _Ended(NamedTuple):
    """A command that was run to its end."""

    seconds: float
    worked: float
    """Seconds of the processor."""
    megabytes: float
    """The most memory that it had."""
    report: dict[str, int]


def _import(run: Run, part: Part, named: str, authority: Authority, file: Path) -> None:
    """Import a table; add the figures."""
    number = sum(1 for _ in file.open(encoding="ascii")) - 1
    before = authority.cpu_seconds()
    ended = _run(run, authority, file)
    repeated = ended.report["repeated"]  # by calls that the client had to send again
    assert ended.report["imported"] + repeated == number, ended.report
    each = (authority.cpu_seconds() - before) / number * 1e6
    part.add("s", {f"{named}: duration": [ended.seconds]})
    part.add("µs", {f"{named}: processor time of the server per key": [each]})
    each = ended.worked / number * 1e6
    part.add("µs", {f"{named}: processor time of the command per key": [each]})
    part.add("keys", {f"{named}: sent again": [repeated]})
    part.add("MB", {f"{named}: memory of the command, at most": [ended.megabytes]})
    most = max(_most_resident(pid) for pid in authority.server.worker_pids())
    part.add("MB", {f"{named}: memory of the worker, at most": [most]})


def _run(run: Run, authority: Authority, file: Path) -> _Ended:
    shape = ("--scheme", "sha256_hex", "--token-prefix", _PREFIX)
    lengths = ("--token-length-min", str(_LENGTH), "--token-length-max", str(_LENGTH))
    options = ("--from", "csv", "--import-set", "bench", "--project-id", authority.project_id)
    command = [sys.executable, "-m", "keyauthority.cli", "keys", "import", str(file), "--json"]
    settings = {
        "KEYAUTHORITY_ADDRESS": authority.server.address,
        "KEYAUTHORITY_OPERATOR_KEY_FILE": str(authority.server.data / "operator.key"),
    }
    begun = time.perf_counter()
    with subprocess.Popen(
        [*run.pinned(run.load_core), *command, *options, *shape, *lengths],
        env=environment(settings),
        stdout=subprocess.PIPE,
    ) as running:
        assert running.stdout is not None
        report = json.loads(running.stdout.read())
        _, status, used = os.wait4(running.pid, 0)
        running.returncode = os.waitstatus_to_exitcode(status)
    assert running.returncode == 0, report
    worked = used.ru_utime + used.ru_stime
    return _Ended(time.perf_counter() - begun, worked, used.ru_maxrss / 1024, report)


def _most_resident(pid: int) -> float:
    """Return the most MB that a process has had in memory."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _verify(
    run: Run,
    part: Part,
    authority: Authority,
    without: Authority,
    native: list[str],
    imported: list[str],
) -> None:
    """Verify keys of both origins and refused texts, in turns."""
    for tokens in (native, imported):  # as a key in use is: proven once, and in memory
        for first in range(0, len(tokens), _BATCH):
            verdicts = authority.client.batch_verify(tokens[first:][:_BATCH])
            assert all(verdict.valid for verdict in verdicts)
    garbage, other = _texts("new_"), _texts("new_")
    sides = {
        _NATIVE: _load(run, authority, "native", native, VALID),
        _IMPORTED: _load(run, authority, "imported", imported, VALID),
        _GARBAGE: _load(run, authority, "garbage", garbage, _MALFORMED),
        _NO_SET: _load(run, without, "no-set", other, _MALFORMED),
        _UNKNOWN_NATIVE: _load(run, authority, "unknown", _unknown(), _UNKNOWN),
        _UNKNOWN_FOREIGN: _load(run, authority, "foreign", _texts(_PREFIX), _UNKNOWN),
    }
    part.add("calls/s", take_turns(sides, run.rounds))
    for name, side in sides.items():  # depends less on other work of the machine
        part.add("µs", {f"{name}: processor time": side.taken[1:]})
    part.compare("Verify of imported to native keys", _IMPORTED, _NATIVE, "≥ 0.9")
    part.compare("texts that fit no set, to a server without sets", _GARBAGE, _NO_SET, "≥ 0.95")
    part.compare(
        "unknown tokens of a set to unknown native ones", _UNKNOWN_FOREIGN, _UNKNOWN_NATIVE
    )


class _Counted:
    """A load, and the processor time of the server per call, in µs, of each round."""

    def __init__(self, authority: Authority, load: TrafficLoad) -> None:
        self._authority = authority
        self._load = load
        self.taken: list[float] = []

    def __call__(self) -> float:
        """Return the calls a second of one round."""
        before = self._authority.cpu_seconds()
        rate = self._load()
        seconds = self._authority.cpu_seconds() - before
        self.taken.append(seconds / self._load.rounds[-1].calls * 1e6)
        return rate


def _load(run: Run, authority: Authority, name: str, tokens: list[str], answer: bytes) -> _Counted:
    bodies = (
        pb.VerifyRequest(
            secret_key=token,
            permissions=[NEEDED],
            client_ip=f"10.{place >> 16}.{place >> 8 & 255}.{place & 255}",
        ).SerializeToString()
        for place, token in enumerate(islice(_again(tokens), _QUESTIONS))
    )
    traffic = Traffic(
        authority.server.address,
        f"{SERVICE}/Verify",
        write_bodies(run.folder / f"{name}.bodies", bodies),
        prefix=answer,
        metadata=f"x-auth-token={authority.server.operator_key}",
    )
    return _Counted(authority, TrafficLoad(run, traffic, run.seconds))


def _again(tokens: list[str]) -> Iterator[str]:
    while True:
        yield from tokens


def _foreign_token(prefix: str = _PREFIX) -> str:
    return prefix + secrets.token_hex(16)


def _texts(prefix: str) -> list[str]:
    return [_foreign_token(prefix) for _ in range(_QUESTIONS)]


def _unknown() -> list[str]:
    return [
        make(KeyKind.RESTRICTED, KeyMode.LIVE, new_access_key(), new_secret()).reveal()
        for _ in range(_QUESTIONS)
    ]
