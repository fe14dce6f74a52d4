"""A thread that serves all waiting units of work as one group.

Urgent units are served before the others, all but the oldest of these: so neither keeps the other
out.
"""

from __future__ import annotations

import queue
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Generic, Protocol, TypeVar

import structlog

from keyauthority_server.store.interface import StoreUnavailable

_log = structlog.get_logger(__name__)


class Unit(Protocol):
    """A unit of work."""

    @property
    def size(self) -> int:
        """Its share of a group's capacity."""
        ...

    @property
    def urgent(self) -> bool:
        """True if it is served before others, and may use the disk reserve."""
        ...


U = TypeVar("U", bound=Unit)


class BatchWorker(ABC, Generic[U]):
    """Serves units in its thread, in order of submission. A subclass defines the work."""

    def __init__(self, *, name: str, most: int, idle_seconds: float | None = None) -> None:
        """Start the thread; a subclass calls this last.

        A group ends with the unit that brings its size to `most`. `idle` runs after `idle_seconds`
        without a unit.
        """
        self._name = name
        self._most = most
        self._idle_seconds = idle_seconds
        self._units: queue.SimpleQueue[U | None] = queue.SimpleQueue()
        self._urgent: deque[U] = deque()  # taken from the queue; of the thread alone
        self._others: deque[U] = deque()
        self._closing = False
        self._is_open = True
        self.stopped: Future[None] = Future()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, unit: U) -> None:
        """Queue a unit; raises StoreUnavailable once closed."""
        if self._closing:
            raise StoreUnavailable("the store is closed")
        self._units.put(unit)

    def close(self) -> None:
        """Accept no further units; `stopped` is done once the queued units are served."""
        if not self._closing:
            self._closing = True
            self._units.put(None)

    def turn(self) -> AbstractContextManager[object]:
        """Return the lock of a group: taken before it is gathered, held until it is served."""
        return nullcontext()

    @abstractmethod
    def serve(self, units: list[U]) -> Sequence[U]:
        """Run the work of a group, and resolve its callers; return units that did not start.

        These are served first in the next group.
        """

    @abstractmethod
    def fail(self, units: list[U], error: Exception) -> None:
        """Resolve the callers of a group after an unexpected error."""

    def idle(self) -> None:
        """Do what is due without a unit. It must not raise."""

    @abstractmethod
    def end(self) -> None:
        """Release all resources; called after the last group."""

    def _run(self) -> None:
        try:
            while self._serve_next():
                pass
        finally:
            self.end()
            self.stopped.set_result(None)

    def _serve_next(self) -> bool:
        """Serve the next group, or idle; False once closed and all units are served."""
        if not self._urgent and not self._others:
            if not self._is_open:
                return False
            try:
                self._sort(self._units.get(timeout=self._idle_seconds))
            except queue.Empty:
                self.idle()
            return True
        units: list[U] = []
        try:
            with self.turn():
                units = self._gather()
                for unit in reversed(self.serve(units)):
                    (self._urgent if unit.urgent else self._others).appendleft(unit)
        except Exception as error:  # noqa: BLE001  # the thread must survive unexpected errors
            failure = f"{type(error).__name__}: {error}"
            _log.critical("worker_failed", worker=self._name, error=failure)
            self.fail(units, error)
        return True

    def _sort(self, unit: U | None) -> None:
        if unit is None:
            self._is_open = False
        else:
            (self._urgent if unit.urgent else self._others).append(unit)

    def _gather(self) -> list[U]:
        """Return a group of the units that are waiting by now."""
        with suppress(queue.Empty):
            while True:
                self._sort(self._units.get_nowait())
        units, room = list[U](), self._most
        while room > 0 and (self._urgent or self._others):
            from_urgent = self._urgent and (units or not self._others)
            unit = (self._urgent if from_urgent else self._others).popleft()
            units.append(unit)
            room -= unit.size
        return units
