"""A thread that serves all waiting units of work as one group.

Its `Job` defines the units and serves the groups.
"""

from __future__ import annotations

import queue
import threading
from concurrent.futures import Future
from typing import Generic, Protocol, TypeVar

from keyauthority_server.store.interface import StoreUnavailable


class Sized(Protocol):
    """A unit of work."""

    @property
    def size(self) -> int:
        """Its share of a group's capacity."""
        ...


U = TypeVar("U", bound=Sized)
V = TypeVar("V", bound=Sized)


class Job(Protocol[V]):
    """Serves groups. Its methods run in the thread and raise nothing."""

    def serve(self, units: list[V]) -> None:
        """Run the work of a group, and resolve its callers."""
        ...

    def end(self) -> None:
        """Release all resources; called after the last group."""
        ...


class BatchWorker(Generic[U]):
    """Serves units in its thread, in the order of submission."""

    def __init__(self, job: Job[U], *, name: str, most: int) -> None:
        """Own `job`. A group ends with the unit that brings its size to `most`."""
        self._job = job
        self._most = most
        self._units: queue.SimpleQueue[U | None] = queue.SimpleQueue()
        self._closing = False
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

    def _run(self) -> None:
        try:
            is_open = True
            while is_open:
                units, is_open = self._gather()
                if units:
                    self._job.serve(units)
        finally:
            self._job.end()
            self.stopped.set_result(None)

    def _gather(self) -> tuple[list[U], bool]:
        """Wait for a unit, and take those queued after it; False once the worker is closed."""
        units: list[U] = []
        room = self._most
        unit = self._units.get()
        while unit is not None:
            units.append(unit)
            room -= unit.size
            if room <= 0:
                return units, True
            try:
                unit = self._units.get_nowait()
            except queue.Empty:
                return units, True
        return units, False
