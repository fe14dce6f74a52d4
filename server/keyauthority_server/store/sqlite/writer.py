"""The one thread of a process that writes a file: all that is waiting is committed together.

It gathers units, takes the turn among the processes, begins, commits, and only then has the callers
answered. What a unit is, and what is done with it in between, is the business of its `Job`.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final, Generic, Protocol, TypeVar

import structlog

from keyauthority_server.store.interface import StoreError, StoreFull, StoreUnavailable
from keyauthority_server.store.sqlite.connection import SqliteRows, StoreBroken
from keyauthority_server.store.sqlite.disk_reserve import DiskReserve
from keyauthority_server.store.sqlite.file_lock import FairFileLock

GROUP_MAX: Final = 256  # units' sizes; bounds how long other processes wait: some 50 ms
IDLE_SECONDS: Final = 1.0  # how often the writer looks after its files when nothing comes
AUTOCHECKPOINT_PAGES: Final = 1_000  # SQLite's own default: 4 MB

Answer = Callable[[], None]
"""Answers the callers of a group: to be called once it is committed."""

_log = structlog.get_logger(__name__)


class Sized(Protocol):
    """A unit of work."""

    @property
    def size(self) -> int:
        """How much of a group it fills."""
        ...

    @property
    def urgent(self) -> bool:
        """True if it may use the reserve."""
        ...


U = TypeVar("U", bound=Sized)
V = TypeVar("V", bound=Sized, contravariant=True)


class Job(Protocol[V]):
    """What is done with the units of a group. Both are called in the writer's thread."""

    def run(self, units: Sequence[V]) -> Answer:
        """Do the work of all, between BEGIN and COMMIT; return how to answer it.

        Raises StoreError if the whole transaction is lost. May be run again after it was.
        """
        ...

    def fail(self, units: Sequence[V], error: StoreError) -> None:
        """Tell the callers that nothing of it is known to be committed."""
        ...


class Writer(Generic[U]):
    """Runs units of work in its thread, in the order in which they were handed in."""

    def __init__(
        self,
        rows: SqliteRows,
        lock: FairFileLock,
        job: Job[U],
        watch: Callable[[], None],
        *,
        name: str,
        checkpoints: bool,
        reserve: DiskReserve | None = None,
    ) -> None:
        """Take over `rows`, which the job works on too, `lock` and `reserve`.

        `watch` is asked when idle and before each group, and may raise StoreBroken. Without a
        reserve no unit is refused for a disk that is low, only for one that is full.
        """
        self._lock = lock
        self._job = job
        self._watch = watch
        self._checkpoints = checkpoints
        self._reserve = reserve
        self._rows = rows
        if checkpoints:
            self._rows.run(_AUTOCHECKPOINT)
        self._seen = self._data_version()
        self._units: queue.SimpleQueue[U | None] = queue.SimpleQueue()
        self._closing = False
        self._broken: str | None = None
        self.stopped: Future[None] = Future()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, unit: U) -> None:
        """Hand in a unit; raises StoreUnavailable if nothing is written any more."""
        if self._closing:
            raise StoreUnavailable("the store is closed")
        if self._broken is not None:
            raise StoreUnavailable(self._broken)
        self._units.put(unit)

    def close(self) -> None:
        """Take no more work; `stopped` is done when what was handed in has been."""
        if not self._closing:
            self._closing = True
            self._units.put(None)

    def _run(self) -> None:
        try:
            while self._serve():
                pass
        finally:
            self._rows.close()
            self._lock.close()
            if self._reserve is not None:
                self._reserve.close()
            self.stopped.set_result(None)

    def _serve(self) -> bool:
        """Commit the next group, or look after the files; False at the end."""
        units = self._wait()
        if units is None:
            return False
        go_on = True
        try:
            if units:
                with self._lock:
                    go_on = self._gather(units)
                    self._commit(units)
            else:
                self._idle()
        except Exception as error:  # noqa: BLE001  # the thread must outlive what nobody foresaw
            self._break(error)
            self._roll_back()
            self._job.fail(units, StoreUnavailable("the writer failed"))
        return go_on

    def _wait(self) -> list[U] | None:
        """Return the first unit of a group, nothing after a while without one, None at the end."""
        try:
            unit = self._units.get(timeout=IDLE_SECONDS)
        except queue.Empty:
            return []
        return None if unit is None else [unit]

    def _gather(self, units: list[U]) -> bool:
        """Add what is waiting by now; False if the end of all was among it."""
        room = GROUP_MAX - units[0].size
        while room > 0:
            try:
                unit = self._units.get_nowait()
            except queue.Empty:
                break
            if unit is None:
                return False
            units.append(unit)
            room -= unit.size
        return True

    def _commit(self, units: list[U]) -> None:
        """Run the units in one transaction, commit it, and tell their callers."""
        tried_again = False
        units = self._with_room(units)
        while units:
            if self._broken is not None:
                self._job.fail(units, StoreUnavailable(self._broken))
                return
            try:
                answer = self._attempt(units)
            except StoreFull as error:
                self._roll_back()
                units = self._after_full(units, error, tried_again)
                tried_again = True
            except StoreError as error:
                self._note(error)
                self._roll_back()
                self._job.fail(units, error)
                return
            else:
                answer()
                return

    def _attempt(self, units: list[U]) -> Answer:
        self._rows.failure = None
        self._watch()
        self._rows.run("BEGIN IMMEDIATE")
        answer = self._job.run(units)
        self._rows.run("COMMIT")
        return answer

    def _with_room(self, units: list[U]) -> list[U]:
        """Return the units that there is space for; the callers of the others are told."""
        if self._reserve is None or self._reserve.has_room():
            return units
        refused = [unit for unit in units if not unit.urgent]
        self._job.fail(refused, StoreFull("space is low"))
        urgent = [unit for unit in units if unit.urgent]
        if urgent:
            self._begin_log_anew()
            self._reserve.make_room()
        return urgent

    def _after_full(self, units: list[U], error: StoreFull, tried_again: bool) -> list[U]:
        """Return the units to try again, now that there may be space; tell the others' callers.

        What takes no space of its own may fit into the write-ahead log once that begins anew;
        what is urgent has the reserve, until nothing is left of it.
        """
        self._begin_log_anew()
        urgent = [unit for unit in units if unit.urgent]
        more = bool(urgent) and self._reserve is not None and self._reserve.release()
        kept = [] if tried_again and not more else urgent or units
        if len(kept) < len(units):
            self._note(error)
            self._job.fail([unit for unit in units if unit not in kept], error)
        return kept

    def _begin_log_anew(self) -> None:
        """Move the write-ahead log into the database, so that it needs no more space for now."""
        try:
            self._rows.one("PRAGMA wal_checkpoint(PASSIVE)")
        except StoreFull:
            pass  # the database cannot grow; the log stays as it is
        except StoreError as error:
            self._note(error)

    def _note(self, error: StoreError) -> None:
        _log.error("store_write_failed", error=str(error))
        if isinstance(error, StoreBroken):
            self._break(error)

    def _roll_back(self) -> None:
        try:
            if self._rows.in_transaction:
                self._rows.run("ROLLBACK")
        except StoreError as again:
            self._break(again)

    def _break(self, error: Exception) -> None:
        """Acknowledge nothing any more: after a failed write or sync what is on disk is unknown."""
        if self._broken is None:
            self._broken = "the store failed, and must be opened anew"
            _log.critical("store_broken", error=f"{type(error).__name__}: {error}")

    def _idle(self) -> None:
        """Notice a file that was exchanged; checkpoint what other processes have written."""
        if self._broken is not None:
            return
        try:
            self._watch()
            if self._reserve is not None and not self._reserve.is_whole:
                with self._lock:
                    self._reserve.has_room()  # it grows back
            version = self._data_version()
            if self._checkpoints and version != self._seen:
                with self._lock:  # no writer in between: the log can begin anew
                    self._rows.one("PRAGMA wal_checkpoint(PASSIVE)")
                self._seen = version
        except StoreError as error:
            self._note(error)

    def _data_version(self) -> int:
        (version,) = self._rows.one("PRAGMA data_version")
        return int(version)


_AUTOCHECKPOINT: Final = f"PRAGMA wal_autocheckpoint = {AUTOCHECKPOINT_PAGES}"
