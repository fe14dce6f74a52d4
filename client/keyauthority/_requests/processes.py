"""Connections in forked processes and under patched threads.

A gRPC channel does not survive a fork, since its threads are not copied. Every connection is reset
in the child and opens a new channel on its next call.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Final, Protocol
from weakref import WeakSet

from keyauthority.errors import FailedPrecondition


class Forkable(Protocol):
    """A connection or verifier that must be reset in a forked process."""

    def _forked(self) -> None:
        """Reset the object. Runs in the child's only thread; must not block or make calls."""


_GRPC: Final = "grpc._cython.cygrpc"
_forkables: Final[WeakSet[Forkable]] = WeakSet()
_asyncio_is_lost = False
_abandoned: Final[list[object]] = []  # never freed: freeing would use threads that do not exist


def on_fork(forkable: Forkable) -> None:
    """Call `_forked` of the object in every forked process, for as long as the object lives."""
    _forkables.add(forkable)


def abandon(channels: object, *, asyncio: bool = False) -> None:
    """Keep the parent's channels alive, so that they are never freed in this process.

    Inherited asyncio channels make gRPC for asyncio unusable here: it would hang or abort.
    """
    global _asyncio_is_lost
    _abandoned.append(channels)
    _asyncio_is_lost |= asyncio


def refuse_after_fork() -> None:
    """Raise FailedPrecondition in a process forked while an AsyncClient was connected."""
    if _asyncio_is_lost:
        raise FailedPrecondition(
            "the process was forked while an AsyncClient was connected, which gRPC for asyncio "
            "does not survive: make the first call after the fork, or close the client before"
        )


def _reset_all() -> None:
    for forkable in list(_forkables):
        forkable._forked()


os.register_at_fork(after_in_child=_reset_all)


def refuse_green_threads(*, asyncio: bool) -> None:
    """Raise FailedPrecondition where patched threads would wait for gRPC forever."""
    if _is_patched("gevent.monkey", "is_module_patched", "threading"):
        if asyncio:
            raise FailedPrecondition("asyncio does not run in threads of gevent: use Client")
        if not getattr(sys.modules.get(_GRPC), "g_gevent_activated", False):
            raise FailedPrecondition(
                "gevent has patched the threads, but gRPC is not initialised for it: call "
                "grpc.experimental.gevent.init_gevent() after monkey.patch_all(), in each process"
            )
    if _is_patched("eventlet.patcher", "is_monkey_patched", "thread"):
        raise FailedPrecondition("gRPC does not run in threads of eventlet: use another worker")


def is_outdated(lock: object) -> bool:
    """Return True if the threads were patched since a lock was made, as in a preloaded server.

    A lock of real threads would stop all green threads of the process.
    """
    return type(lock) is not type(threading.Lock())


def _is_patched(module: str, function: str, subject: str) -> bool:
    check: Callable[[str], bool] | None = getattr(sys.modules.get(module), function, None)
    return check is not None and bool(check(subject))
