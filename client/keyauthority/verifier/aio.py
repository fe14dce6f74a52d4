"""`AsyncVerifier`: evaluates in the process; a task keeps its records up to date."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self

from keyauthority._requests.processes import on_fork
from keyauthority._requests.tokens import verify_query
from keyauthority.aio import AsyncClient
from keyauthority.clock import monotonic
from keyauthority.errors import FailedPrecondition, KeyAuthorityError
from keyauthority.model import ApiTarget, App, KeyMode, Verdict
from keyauthority.requests import VerifyQuery
from keyauthority.verifier.policy import (
    BOUND,
    CANNOT_TELL,
    RETRY_FIRST,
    RETRY_MAX,
    SILENCE_MAX,
    USAGE,
    WATCH,
    LogOnce,
    Policy,
    handle_report_failure,
    server_arguments,
    strip_records,
)


class AsyncVerifier:
    """`Verifier` for asyncio: the same methods, awaited.

    A local verdict does not yield to other tasks. The watch runs in the event loop that opened the
    verifier; after that loop is closed, in the next one that uses it.
    """

    def __init__(
        self,
        authority: AsyncClient,
        *,
        max_staleness: timedelta = BOUND,
        fail_static: timedelta | None = None,
        max_keys: int = 100_000,
        report_interval: timedelta = timedelta(seconds=10),
        timeout: float = 1.0,
    ) -> None:
        self._authority = authority
        self._policy = Policy(
            max_staleness=max_staleness,
            fail_static=fail_static,
            max_keys=max_keys,
            report_interval=report_interval,
            timeout=timeout,
        )
        self._opened = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._forked()
        on_fork(self)

    async def __aenter__(self) -> Self:
        self._opened = True
        self._start()
        return self

    def _start(self) -> None:
        """Start the watch in the running loop, unless another open loop runs it."""
        if not self._opened or not (self._loop is None or self._loop.is_closed()):
            return
        self._loop = asyncio.get_running_loop()
        self._fresh = asyncio.Event()
        self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._report_loop())]

    def _forked(self) -> None:
        """Set the initial state, also in a forked process: an empty cache, no tasks."""
        self._evaluator = self._policy.evaluator()
        self._failures = LogOnce()
        self._fresh = asyncio.Event()
        self._loop, self._tasks = None, []

    def _require_loop(self) -> None:
        if self._loop is not None and self._loop is not asyncio.get_running_loop():
            raise FailedPrecondition("the verifier was opened in another event loop")

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def revision(self) -> int:
        """The newest revision received; 0 before the first update of the watch."""
        return self._evaluator.cache.position.revision

    @property
    def staleness(self) -> timedelta | None:
        """The maximum age of the local records; None before the first update of the watch."""
        return self._evaluator.age(monotonic())

    async def wait_until_fresh(self, timeout: float) -> bool:  # noqa: ASYNC109 - as `Verifier` has it
        """Wait for the first update of the watch; return False after `timeout` seconds."""
        self._start()
        self._require_loop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._fresh.wait()
        return self._fresh.is_set()

    async def verify(
        self,
        secret_key: str,
        *,
        access_key: str = "",
        project_id: str = "",
        mode: KeyMode | str | None = None,
        permissions: Sequence[str] = (),
        client_ip: str = "",
        referrer: str = "",
        app: App | None = None,
        api_target: ApiTarget | None = None,
        cost: int = 1,
        at_least_revision: int = 0,
        log_id: str = "",
        explain: bool = False,
        include_record: bool = False,
    ) -> Verdict:
        """Verify a token: `AsyncClient.verify`, evaluated locally where possible.

        An exception means that the validity is unknown: treat the token as neither valid nor
        denied.
        """
        query = verify_query(
            secret_key,
            access_key,
            project_id,
            mode,
            permissions,
            client_ip,
            referrer,
            app,
            api_target,
            cost,
            at_least_revision,
            log_id,
            explain,
            include_record,
        )
        return self._evaluator.evaluate(query, monotonic()) or await self._verify(query)

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

    async def _verify(self, query: VerifyQuery) -> Verdict:
        if self._loop is None or self._loop.is_closed():
            self._start()
        evaluator, now = self._evaluator, monotonic()
        local = evaluator.fail_static_cached(query, now)
        if local is not None:
            return local
        try:
            verdict = await self._authority.verify(
                query.secret_key, **server_arguments(query), timeout=self._policy.timeout
            )
        except CANNOT_TELL:
            local = evaluator.after_failure(query, monotonic())
            if local is None:
                raise
            return local
        evaluator.learn(query, verdict)
        return strip_records(query, verdict)

    async def _watch(self) -> None:
        pause = RETRY_FIRST
        while True:
            try:
                await self._follow()
                pause = RETRY_FIRST
            except FailedPrecondition as failure:
                self._evaluator.forget()  # the authority lost revisions: it was restored
                if failure.reason is None:  # raised by this library
                    self._failures.warn(WATCH, failure)
            except KeyAuthorityError as failure:
                self._failures.warn(WATCH, failure)
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

    async def _report_loop(self) -> None:
        while True:
            await asyncio.sleep(self._policy.report_interval.total_seconds())
            await self._report()

    async def _report(self) -> None:
        reports = self._evaluator.reports()
        try:
            while reports:
                await self._authority.report_usage(reports[0].rows, batch_id=reports[0].batch_id)
                reports.popleft()
        except KeyAuthorityError as failure:
            handle_report_failure(self._evaluator, self._failures, failure)
        else:
            self._failures.clear(USAGE)
