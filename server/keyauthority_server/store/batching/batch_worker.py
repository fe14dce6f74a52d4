"""A thread that does what several callers want at once: all that is waiting, together.

What a unit is, and what is done with a group of them, is the business of its `Job`.
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
        """How much of a group it fills."""
        ...


U = TypeVar("U", bound=Sized)
V = TypeVar("V", bound=Sized)


class Job(Protocol[V]):
    """What is done with groups. All of it is called in the thread, and raises nothing."""

    def serve(self, units: list[V]) -> None:
        """Do the work of a group, and answer its callers."""
        ...

    def end(self) -> None:
        """Let go of everything: no group comes any more."""
        ...


class BatchWorker(Generic[U]):
    """Serves units in its thread, in the order in which they were handed in."""

    def __init__(self, job: Job[U], *, name: str, most: int) -> None:
        """Take over `job`. A group ends with the unit that brings its size to `most`."""
        self._job = job
        self._most = most
        self._units: queue.SimpleQueue[U | None] = queue.SimpleQueue()
        self._closing = False
        self.stopped: Future[None] = Future()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def submit(self, unit: U) -> None:
        """Hand in a unit; raises StoreUnavailable if it was closed."""
        if self._closing:
            raise StoreUnavailable("the store is closed")
        self._units.put(unit)

    def close(self) -> None:
        """Take no more; `stopped` is done when what was handed in has been served."""
        if not self._closing:
            self._closing = True
            self._units.put(None)

    def _run(self) -> None:
        try:
            go_on = True
            while go_on:
                units, go_on = self._gather()
                if units:
                    self._job.serve(units)
        finally:
            self._job.end()
            self.stopped.set_result(None)

    def _gather(self) -> tuple[list[U], bool]:
        """Wait for a unit, and take what is waiting behind it; False if the end was among it."""
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
