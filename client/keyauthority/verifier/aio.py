"""`AsyncVerifier`: evaluates in the process; a task keeps its records up to date."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Self

from keyauthority.client import Client
from keyauthority.clock import monotonic
from keyauthority.errors import FailedPrecondition
from keyauthority.verifier.aio_calls import AsyncVerifierCalls
from keyauthority.verifier.policy import RETRY_FIRST, RETRY_MAX, SILENCE_MAX, WATCH


class AsyncVerifier(AsyncVerifierCalls):
    """`Verifier` for asyncio: the same methods, awaited.

    A local verdict does not yield to other tasks. The watch runs in the event loop that opened the
    verifier; after that loop is closed, in the next one that uses it.
    """

    _other_client = Client

    async def __aenter__(self) -> Self:
        self._opened = True
        self._start()
        return self

    def _reset(self) -> None:
        """Set the initial state: an empty cache, no tasks."""
        super()._reset()
        self._fresh = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[None]] = []

    def _start(self) -> None:
        """Start the watch in the running loop, unless another open loop runs it."""
        if not self._opened or not (self._loop is None or self._loop.is_closed()):
            return
        self._loop = asyncio.get_running_loop()
        self._fresh = asyncio.Event()
        self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._report_loop())]

    def _require_loop(self) -> None:
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            raise FailedPrecondition("the verifier was opened in another event loop")

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def wait_until_fresh(self, timeout: float) -> bool:  # noqa: ASYNC109 - as `Verifier` has it
        """Wait for the first update of the watch; return False after `timeout` seconds."""
        self._start()
        self._require_loop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._fresh.wait()
        return self._fresh.is_set()

    async def close(self) -> None:
        """Report local verdicts and end the watch; later calls of `verify` use the authority."""
        self._opened = False
        if self._loop is not None and not self._loop.is_closed():
            self._require_loop()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._report()
        self._evaluator.forget()

    async def _watch(self) -> None:
        pause = RETRY_FIRST
        while True:
            if await self._follow_once():
                pause = RETRY_FIRST
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_MAX)

    async def _follow(self) -> None:
        resume = self._evaluator.resume(monotonic())
        async with self._authority.watch_changes(
            from_revision=resume.from_revision, log_id=resume.log_id
        ) as stream:
            while True:
                try:
                    async with asyncio.timeout(SILENCE_MAX):  # `wait_for` may lose a cancellation
                        update = await anext(stream)
                except (TimeoutError, StopAsyncIteration):  # silent, or closed by the server
                    return
                if not self._evaluator.apply(update, monotonic()):
                    return
                self._fresh.set()
                self._failures.clear(WATCH)
                await self._look_for_imports()

    async def _report_loop(self) -> None:
        while True:
            await asyncio.sleep(self._policy.report_interval.total_seconds())
            await self._report()
