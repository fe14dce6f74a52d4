"""Connections in forked processes and under patched threads.

A channel of gRPC does not outlive a fork, since its threads are not copied. Each connection is told
in the child, and makes a new channel at its next call.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Final, Protocol
from weakref import WeakSet

from keyauthority.errors import FailedPrecondition


class Forkable(Protocol):
    """A connection or verifier that has to begin again in a forked process."""

    def _forked(self) -> None:
        """Begin again. Runs in the child, in its only thread, and must neither wait nor call."""


_GRPC: Final = "grpc._cython.cygrpc"
_forkables: Final[WeakSet[Forkable]] = WeakSet()
_asyncio_is_lost = False
_abandoned: Final[list[object]] = []  # never freed: freeing would act on threads that are gone


def on_fork(forkable: Forkable) -> None:
    """Have an object told, for as long as it lives, that it is in a forked process now."""
    _forkables.add(forkable)


def abandon(channels: object, *, asyncio: bool = False) -> None:
    """Keep what belongs to the parent process from being freed in this one.

    Channels of asyncio leave gRPC unusable for asyncio here: it would wait for ever, or abort.
    """
    global _asyncio_is_lost
    _abandoned.append(channels)
    _asyncio_is_lost |= asyncio


def refuse_after_fork() -> None:
    """Raise FailedPrecondition in a process that was forked while an AsyncClient was connected."""
    if _asyncio_is_lost:
        raise FailedPrecondition(
            "the process was forked while an AsyncClient was connected, which gRPC for asyncio "
            "does not survive: make the first call after the fork, or close the client before"
        )


def _tell_all() -> None:
    for forkable in list(_forkables):
        forkable._forked()


os.register_at_fork(after_in_child=_tell_all)


def refuse_green_threads(*, asyncio: bool) -> None:
    """Raise FailedPrecondition where patched threads would wait for gRPC for ever."""
    if _is_patched("gevent.monkey", "is_module_patched", "threading"):
        if asyncio:
            raise FailedPrecondition("asyncio does not run in threads of gevent: use Client")
        if not getattr(sys.modules.get(_GRPC), "g_gevent_activated", False):
            raise FailedPrecondition(
                "gevent has patched the threads, and gRPC is not told: call "
                "grpc.experimental.gevent.init_gevent() after monkey.patch_all(), in each process"
            )
    if _is_patched("eventlet.patcher", "is_monkey_patched", "thread"):
        raise FailedPrecondition("gRPC does not run in threads of eventlet: use another worker")


def _is_patched(module: str, question: str, subject: str) -> bool:
    found = sys.modules.get(module)
    answer: Callable[[str], bool] | None = getattr(found, question, None)
    return answer is not None and bool(answer(subject))
