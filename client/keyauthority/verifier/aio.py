"""`AsyncVerifier`: judges in the process, kept fresh by a task that watches."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self

from keyauthority._requests.arguments import texts
from keyauthority._requests.processes import on_fork
from keyauthority._requests.tokens import presentation
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
    answer,
    not_reported,
    question_of,
)


class AsyncVerifier:
    """`Verifier` for asyncio: the same names, awaited.

    What can be judged here is, without giving way to other tasks. It watches in the event loop that
    it was opened in, and in the next that uses it once that one is closed.
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
        """Watch in the running loop, unless another one that is not closed does so."""
        if not self._opened or not (self._loop is None or self._loop.is_closed()):
            return
        self._loop = asyncio.get_running_loop()
        self._fresh = asyncio.Event()
        self._tasks = [asyncio.create_task(self._watch()), asyncio.create_task(self._tend())]

    def _forked(self) -> None:
        """Know nothing, and have no task yet; in a forked process too."""
        self._judge = self._policy.judge()
        self._trouble = LogOnce()
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
        """The newest change that it has been told of; 0 before the first word of the watch."""
        return self._judge.memory.state.revision

    @property
    def staleness(self) -> timedelta | None:
        """How old what it knows may be; None before the first word of the watch."""
        return self._judge.age(monotonic())

    async def wait_until_fresh(self, timeout: float) -> bool:  # noqa: ASYNC109 - as `Verifier` has it
        """Wait for the first word of the watch; False if none has come within `timeout` seconds."""
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
        """Tell whether a token may do what is asked: `AsyncClient.verify`, from what is known here.

        An exception means that nobody can tell: treat it neither as valid nor as denied.
        """
        needed = texts(permissions, "permissions")
        question = (
            access_key,
            project_id,
            mode,
            needed,
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
        return self._judge.again(secret_key, question, monotonic()) or await self._verify(
            presentation(secret_key, *question)
        )

    async def close(self) -> None:
        """Report what was judged, and end the watch. What is verified later, the authority does."""
        self._opened = False
        if self._loop is not None and not self._loop.is_closed():
            self._require_loop()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._report()
        self._judge.forget()

    async def _verify(self, asked: VerifyQuery) -> Verdict:
        if self._loop is None or self._loop.is_closed():
            self._start()
        judge, at = self._judge, monotonic()
        known = judge.judge(asked, at) or judge.instead(asked, at)
        if known is not None:
            return known
        try:
            verdict = await self._authority.verify(
                asked.secret_key, **question_of(asked), timeout=self._policy.timeout
            )
        except CANNOT_TELL:
            known = judge.unanswered(asked, monotonic())
            if known is None:
                raise
            return known
        judge.learn(asked, verdict)
        return answer(asked, verdict)

    async def _watch(self) -> None:
        pause = RETRY_FIRST
        while True:
            try:
                await self._follow()
                pause = RETRY_FIRST
            except FailedPrecondition as failure:
                self._judge.forget()  # the authority is behind what it has told: another state
                if failure.reason is None:  # refused by this library
                    self._trouble.say(WATCH, failure)
            except KeyAuthorityError as failure:
                self._trouble.say(WATCH, failure)
            await asyncio.sleep(pause)
            pause = min(2 * pause, RETRY_MAX)

    async def _follow(self) -> None:
        resume = self._judge.resume(monotonic())
        async with self._authority.watch_changes(
            from_revision=resume.from_revision, log_id=resume.log_id
        ) as stream:
            while True:
                try:
                    async with asyncio.timeout(SILENCE_MAX):  # `wait_for` may lose a cancellation
                        update = await anext(stream)
                except (TimeoutError, StopAsyncIteration):  # silent, or ended by the server
                    return
                if not self._judge.take(update, monotonic()):
                    return
                self._fresh.set()
                self._trouble.over(WATCH)

    async def _tend(self) -> None:
        while True:
            await asyncio.sleep(self._policy.report_interval.total_seconds())
            await self._report()

    async def _report(self) -> None:
        reports = self._judge.reports()
        try:
            while reports:
                await self._authority.report_usage(reports[0].rows, batch_id=reports[0].batch_id)
                reports.popleft()
        except KeyAuthorityError as failure:
            not_reported(self._judge, self._trouble, failure)
        else:
            self._trouble.over(USAGE)
