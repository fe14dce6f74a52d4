"""The single writer thread of a process: commits all waiting units in one transaction.

It takes the lock among the processes, gathers units, begins, commits, and only then answers the
callers. Its `Job` defines the units and runs them inside the transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

import structlog

from keyauthority_server.store.batching.batch_worker import BatchWorker, Unit
from keyauthority_server.store.interface import StoreError, StoreFull, StoreUnavailable
from keyauthority_server.store.sqlite.connection import SqliteRows, StoreBroken
from keyauthority_server.store.sqlite.disk_reserve import DiskReserve
from keyauthority_server.store.sqlite.file_lock import FairFileLock

GROUP_MAX: Final = 256  # total size of units; bounds the wait of other processes: some 50 ms
IDLE_SECONDS: Final = 1.0  # interval of file maintenance while no unit arrives
AUTOCHECKPOINT_PAGES: Final = 1_000  # SQLite's own default: 4 MB

Answer = Callable[[], None]
"""Answers the callers of a group; call it after the commit."""

_log = structlog.get_logger(__name__)


U = TypeVar("U", bound=Unit)
V = TypeVar("V", bound=Unit)


class Job(Protocol[V]):
    """Runs or fails the units of a group, in the writer's thread."""

    def run(self, units: Sequence[V]) -> tuple[Answer, Sequence[V]]:
        """Run units, between BEGIN and COMMIT; return how to answer their callers, and the rest.

        Raises StoreError if the whole transaction is lost; it may then be called again.
        """
        ...

    def fail(self, units: Sequence[V], error: StoreError) -> None:
        """Fail the callers: none of the units is known to be committed."""
        ...


class Writer(BatchWorker[U]):
    """Runs units of work in its thread, each group in one transaction."""

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
        """Own `rows`, which the job uses too, `lock` and `reserve`.

        `watch` is called when idle and before each group, and may raise StoreBroken. Without a
        reserve, units fail only on a full disk, not on a low one.
        """
        self._lock = lock
        self._job = job
        self._watch = watch
        self._checkpoints = checkpoints
        self._reserve = reserve
        self._rows = rows
        if checkpoints:
            self._rows.run(_AUTOCHECKPOINT)
        self._seen = self._rows.version()
        self._broken: str | None = None
        super().__init__(name=name, most=GROUP_MAX, idle_seconds=IDLE_SECONDS)

    def submit(self, unit: U) -> None:
        """Queue a unit; raises StoreUnavailable once the writer is closed or broken."""
        self.check()
        super().submit(unit)

    def check(self) -> None:
        """Raise StoreUnavailable once the writer is broken."""
        if self._broken is not None:
            raise StoreUnavailable(self._broken)

    def turn(self) -> FairFileLock:
        """Return the lock among the writers of all processes."""
        return self._lock

    def fail(self, units: list[U], error: Exception) -> None:
        """Fail the callers, and stop acknowledging."""
        self._break(error)
        self._roll_back()
        self._job.fail(units, StoreUnavailable("the writer failed"))

    def end(self) -> None:
        """Close the files."""
        self._rows.close()
        self._lock.close()
        if self._reserve is not None:
            self._reserve.close()

    def serve(self, units: list[U]) -> Sequence[U]:
        """Run units in one transaction, commit it, and answer their callers; return the rest."""
        tried_again = False
        units = self._with_room(units)
        while units:
            if self._broken is not None:
                self._job.fail(units, StoreUnavailable(self._broken))
                return ()
            try:
                answer, rest = self._attempt(units)
            except StoreFull as error:
                self._roll_back()
                units = self._after_full(units, error, tried_again)
                tried_again = True
            except StoreError as error:
                self._note(error)
                self._roll_back()
                self._job.fail(units, error)
                return ()
            else:
                answer()
                return rest
        return ()

    def _attempt(self, units: list[U]) -> tuple[Answer, Sequence[U]]:
        self._rows.failure = None
        self._watch()
        self._rows.run("BEGIN IMMEDIATE")
        answer_and_rest = self._job.run(units)
        self._rows.end_iterations()
        self._rows.run("COMMIT")
        return answer_and_rest

    def _with_room(self, units: list[U]) -> list[U]:
        """Return the units that there is space for; fail the others."""
        if self._reserve is None or self._reserve.restore():
            return units
        deferrable = [unit for unit in units if not unit.urgent]
        self._job.fail(deferrable, StoreFull("disk space is low: free some space"))
        urgent = [unit for unit in units if unit.urgent]
        if urgent:
            self._reset_log()
            self._reserve.make_room()
        return urgent

    def _after_full(self, units: list[U], error: StoreFull, tried_again: bool) -> list[U]:
        """Return the units to retry, as there may be space now; fail the others.

        Units that need no space of their own may fit into the write-ahead log after a checkpoint;
        urgent units may use the reserve until it is used up.
        """
        self._reset_log()
        urgent = [unit for unit in units if unit.urgent]
        released = bool(urgent) and self._reserve is not None and self._reserve.release()
        retried = [] if tried_again and not released else urgent or units
        if len(retried) < len(units):
            self._note(error)
            self._job.fail([unit for unit in units if unit not in retried], error)
        return retried

    def _reset_log(self) -> None:
        """Checkpoint the write-ahead log, so that it can restart without growing."""
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
        """Stop acknowledging: after a failed write or sync the content of the disk is unknown."""
        if self._broken is None:
            self._broken = "the store failed: restart the server to open it again"
            _log.critical("store_broken", error=f"{type(error).__name__}: {error}")

    def idle(self) -> None:
        """Detect replaced files; checkpoint the commits of other processes."""
        if self._broken is not None:
            return
        try:
            self._watch()
            if self._reserve is not None and not self._reserve.is_whole:
                with self._lock:
                    self._reserve.restore()
            version = self._rows.version()
            if self._checkpoints and version != self._seen:
                with self._lock:  # no writer in between: the log can restart
                    self._rows.one("PRAGMA wal_checkpoint(PASSIVE)")
                self._seen = version
        except StoreError as error:
            self._note(error)
        except Exception as error:  # noqa: BLE001  # the thread must survive unexpected errors
            self._break(error)


_AUTOCHECKPOINT: Final = f"PRAGMA wal_autocheckpoint = {AUTOCHECKPOINT_PAGES}"
