"""Recorded files of a real server under load, and the oracle over them after a loss of power.

The oracle is `journal.judge`, unchanged: it asks the authority over its RPCs, in this process,
since a server process for each of ten thousand images would take hours.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import threading
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import grpc
from google.protobuf import message_factory
from google.protobuf.message import Message

from keyauthority.v1 import key_pb2, project_service_pb2
from keyauthority_server.config import ConfigError
from keyauthority_server.rpc import services
from keyauthority_server.rpc_types import Call, Services
from keyauthority_server.runtime import bootstrap
from keyauthority_server.runtime.bootstrap import open_authority
from tests.faults.bitflips import environment
from tests.faults.disk.images import Disk
from tests.faults.disk.recording import TOLD, Entry, Recorder, read
from tests.faults.folders import settings
from tests.faults.oracle import CREATE, OK, REVOKE, Journal, Line, SqliteStore, judge, write_half
from tests.service.callers import METHODS, Caller, bearer
from tests.service.processes import ServerProcess, start, wait_until

WRITERS: Final = 4
KEY_FILES: Final = ("pepper", "audit.key", "operator.key")
READY: Final = "ready"
BEGUN: Final = "begun"
ENDED: Final = "ended"
IN_MEMORY: Final = "/dev/shm"  # noqa: S108 - images are made and thrown away by the thousand


@dataclass
class TellingJournal(Journal):
    """A journal that writes into the recording when each operation began, and was answered."""

    recorder: Recorder | None = None
    numbered: list[Line] = field(default_factory=list)
    """The lines by the number that the recording has of them."""

    def send(self, caller: Caller, line: Line, **settings: Any) -> Line:
        """Send a creation."""
        number = self._begin(line)
        sent = super().send(caller, line, **settings)
        self._tell(ENDED, number)
        return sent

    def _begin(self, line: Line) -> int:
        with self.lock:
            self.numbered.append(line)
            number = len(self.numbered) - 1
        self._tell(BEGUN, number)
        return number

    def revoke(self, caller: Caller, access_key: str) -> Line:
        """Revoke a key."""
        number = self._begin(Line(REVOKE, "", access_key, 0.0))
        line = super().revoke(caller, access_key)
        self._tell(ENDED, number)
        return line

    def _tell(self, what: str, number: int) -> None:
        assert self.recorder is not None
        self.recorder.note(TOLD, what, number)


class Recording(NamedTuple):
    """The recorded operations on a server's files, and its clients' journal."""

    entries: Sequence[Entry]
    journal: TellingJournal
    keys: Path
    """The folder with the key files."""


def record(folder: Path, changes: int, **told: str) -> Recording:
    """Let clients write to a server of two workers until so many changes were acknowledged."""
    path = folder / "recording"
    server = start(folder / "data", "--workers", "2", settings=environment(recording=path, **told))
    try:
        recorder = Recorder(path)
        with grpc.insecure_channel(server.address) as channel:
            root = Caller(channel, server.metadata)
            journal = TellingJournal(_limited_project(root), recorder=recorder)
        recorder.note(TOLD, READY)
        _write(server, journal, changes)
    finally:
        server.kill()  # not drained: the recording ends in the midst of it, as the power does
    kept = folder / "keys"
    kept.mkdir(mode=0o700)
    for name in KEY_FILES:
        shutil.copy(server.data / name, kept / name)
    return Recording(list(read(path)), journal, kept)


def _limited_project(root: Caller) -> str:
    """Make a project whose keys' verifications spend from a counter, each of them."""
    limit = key_pb2.RateLimit(limit=1_000_000)
    limit.period.FromTimedelta(timedelta(days=1))
    request = project_service_pb2.CreateProjectRequest(rate_limit=limit)
    return str(root.ask(request).project.project_id)


def _write(server: ServerProcess, journal: Journal, changes: int) -> None:
    stop = threading.Event()

    def client() -> None:
        options = (("grpc.use_local_subchannel_pool", 1),)  # so that both workers have some
        with grpc.insecure_channel(server.address, options) as channel:
            write_half(Caller(channel, server.metadata), journal, stop)

    def acknowledged() -> int:
        return len(journal.acknowledged(CREATE)) + len(journal.acknowledged(REVOKE))

    with ThreadPoolExecutor(WRITERS) as pool:
        running = [pool.submit(client) for _ in range(WRITERS)]
        try:
            wait_until(lambda: acknowledged() >= changes, 60)
        finally:
            stop.set()
        assert [None] * len(running) == [one.result() for one in running]


class Loss(NamedTuple):
    """One loss of power."""

    files: Path
    """The data folder as it is found."""
    journal: Journal
    """The earlier answers of the clients."""
    pending: int
    """How many operations on files were not synced."""


def losses(recording: Recording, number: int, drawn: random.Random) -> Iterator[Loss]:
    """Lose power so often, each time at a moment of its own after the server was ready."""
    entries = recording.entries
    (ready,) = [place for place, one in enumerate(entries) if one[:3:2] == (TOLD, READY)]
    moments = sorted(drawn.randrange(ready + 1, len(entries) + 1) for _ in range(number))
    disk, place = Disk(), 0
    known: dict[int, Line] = {}
    for moment in moments:
        for entry in entries[place:moment]:
            disk.happened(entry)
            if entry.name == READY:
                disk.settle()
            elif entry.kind == TOLD:
                _tell(known, entry, recording.journal.numbered)
        place = max(place, moment)
        with _folder(recording.keys) as folder:
            disk.lose_power(folder, drawn)
            lines = [replace(line) for line in known.values()]
            yield Loss(folder, Journal(recording.journal.project_id, lines), disk.pending)


def _tell(known: dict[int, Line], entry: Entry, lines: Sequence[Line]) -> None:
    line = lines[entry.offset]
    if entry.name == ENDED:
        known[entry.offset] = replace(line, status=OK)
    else:
        access_key = line.access_key if line.operation == REVOKE else ""
        known[entry.offset] = Line(line.operation, line.request_id, access_key, line.start)


@contextmanager
def _folder(keys: Path) -> Iterator[Path]:
    memory = IN_MEMORY if os.access(IN_MEMORY, os.W_OK) else None
    with TemporaryDirectory(prefix="keyauthority-", dir=memory) as parent:
        folder = Path(parent, "data")
        shutil.copytree(keys, folder)
        yield folder


class InProcess:
    """A caller of an authority in this process, from another thread than its loop's."""

    def __init__(self, served: Services, folder: Path) -> None:
        self._services = served
        self._loop = asyncio.get_running_loop()
        operator_key = (folder / "operator.key").read_text(encoding="ascii").strip()
        self._call = Call((bearer(operator_key),), "ipv4:127.0.0.1:50000")

    def ask(self, request: Message) -> Any:
        """Make the call that this request belongs to; return its response."""
        name = request.DESCRIPTOR.name.removesuffix("Request")
        method = METHODS[name]
        served: Any = self._services[method.containing_service.full_name][name]
        called = served.answer(request.SerializeToString(), self._call)
        body = asyncio.run_coroutine_threadsafe(called, self._loop).result(20)
        return message_factory.GetMessageClass(method.output_type).FromString(body)


async def fault(loss: Loss) -> str:
    """Start on the remaining files and check the journal; return the fault, or an empty text."""
    told = settings(loss.files)
    try:
        await bootstrap.prepare(told)
        async with open_authority(told, checkpoints=True) as authority:
            caller: Any = InProcess(services(authority, None), loss.files)
            store = SqliteStore(loss.files)
            await asyncio.to_thread(judge, loss.journal, caller, store)
    except ConfigError as refused:
        return str(refused)
    except AssertionError as wrong:
        return str(wrong) or str(traceback.extract_tb(wrong.__traceback__)[-1].line)
    return ""
