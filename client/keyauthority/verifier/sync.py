"""`Verifier`: judges in the process, kept fresh by a thread that watches."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self

from keyauthority._requests.arguments import texts
from keyauthority._requests.processes import on_fork
from keyauthority._requests.tokens import presentation
from keyauthority.client import Client, Watch
from keyauthority.clock import monotonic
from keyauthority.errors import FailedPrecondition, KeyAuthorityError
from keyauthority.model import ApiTarget, App, KeyMode, Verdict
from keyauthority.requests import VerifyQuery
from keyauthority.results import WatchUpdate
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


class Verifier:
    """Verifies tokens in this process, with the server's own verdict, in microseconds.

    The first time that it sees a token, and whenever a limit or quota has to be drawn, it asks the
    authority; after that it judges by itself, on records that WatchChanges keeps fresh. It needs
    an operator key with `keys:verify`, `keys:read`, `changes:watch` and `usage:report`. Without one
    of the first two `verify` raises PermissionDenied. Without `changes:watch` it asks the authority
    each time, and without `usage:report` what it judges is not counted: the log
    `keyauthority.verifier` says so, once. For an operator who is confined to projects the keys of
    all others are UNKNOWN.

    What it knows is at most `max_staleness` old; when the watch is silent for longer it asks the
    authority each time, and if that cannot be reached it raises Unavailable: nobody can tell. Told
    to `fail_static`, a span counted from the last word of the watch, it goes on for so long with
    what it knows instead, and tries the authority once a second; a revocation that is made
    meanwhile is not seen. It recovers by itself, within some 2 s of the authority's return, or 10 s
    of that of a network that had dropped its packets.

    It keeps `max_keys` keys, some 3 KB each, and of a token a hash only. What it has judged is
    reported each `report_interval`, so that usage and last use stay true to that span. `timeout`,
    in seconds, is how long the authority may take to answer. The client stays yours to close.

    Any thread may use it. In a forked process it begins again by itself, at the first use.
    """

    def __init__(
        self,
        authority: Client,
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
        self._closed = threading.Event()
        self._opened = False
        self._begin()
        on_fork(self)

    def _begin(self) -> None:
        """Know nothing, and have no thread yet."""
        self._judge = self._policy.judge()
        self._trouble = LogOnce()
        self._fresh = threading.Event()
        self._stream: Watch[WatchUpdate] | None = None
        self._heard = monotonic()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._opened = True
        self._start()
        return self

    def _start(self) -> None:
        """Start the threads of this process, unless it has them."""
        with self._lock:
            if self._threads or not self._opened or self._closed.is_set():
                return
            self._threads = [
                threading.Thread(target=self._watch, name="keyauthority-watch", daemon=True),
                threading.Thread(target=self._tend, name="keyauthority-report", daemon=True),
            ]
            for thread in self._threads:
                thread.start()

    def _forked(self) -> None:
        """Begin again in a forked process: threads are not copied, and counts are the parent's."""
        closed = self._closed.is_set()
        self._closed = threading.Event()  # the parent's may have been held by a thread
        if closed:
            self._closed.set()
        self._begin()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def revision(self) -> int:
        """The newest change that it has been told of; 0 before the first word of the watch."""
        return self._judge.memory.state.revision

    @property
    def staleness(self) -> timedelta | None:
        """How old what it knows may be; None before the first word of the watch."""
        return self._judge.age(monotonic())

    def wait_until_fresh(self, timeout: float) -> bool:
        """Wait for the first word of the watch; False if none has come within `timeout` seconds."""
        self._start()
        return self._fresh.wait(timeout)

    def verify(
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
        """Tell whether a token may do what is asked: `Client.verify`, from what is known here.

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
        return self._judge.again(secret_key, question, monotonic()) or self._verify(
            presentation(secret_key, *question)
        )

    def close(self) -> None:
        """Report what was judged, and end the watch. What is verified later, the authority does."""
        self._closed.set()
        if self._stream is not None:
            self._stream.close()
        for thread in self._threads:
            thread.join()
        self._judge.forget()

    def _verify(self, asked: VerifyQuery) -> Verdict:
        if not self._threads:
            self._start()
        judge, at = self._judge, monotonic()
        known = judge.judge(asked, at) or judge.instead(asked, at)
        if known is not None:
            return known
        try:
            verdict = self._authority.verify(
                asked.secret_key, **question_of(asked), timeout=self._policy.timeout
            )
        except CANNOT_TELL:
            known = judge.unanswered(asked, monotonic())
            if known is None:
                raise
            return known
        judge.learn(asked, verdict)
        return answer(asked, verdict)

    def _watch(self) -> None:
        pause = RETRY_FIRST
        while not self._closed.is_set():
            try:
                self._follow()
                pause = RETRY_FIRST
            except FailedPrecondition as failure:
                self._judge.forget()  # the authority is behind what it has told: another state
                if failure.reason is None:  # refused by this library
                    self._trouble.say(WATCH, failure)
            except KeyAuthorityError as failure:
                self._trouble.say(WATCH, failure)
            self._closed.wait(pause)
            pause = min(2 * pause, RETRY_MAX)

    def _follow(self) -> None:
        self._heard = monotonic()
        resume = self._judge.resume(self._heard)
        with self._authority.watch_changes(
            from_revision=resume.from_revision, log_id=resume.log_id
        ) as stream:
            self._stream = stream
            if self._closed.is_set():  # by who has not seen this stream
                return
            for update in stream:
                self._heard = monotonic()
                if not self._judge.take(update, self._heard):
                    return
                self._fresh.set()
                self._trouble.over(WATCH)

    def _tend(self) -> None:
        """Report at each interval and at the end, and give up a stream that has fallen silent."""
        interval = self._policy.report_interval.total_seconds()
        reported = monotonic()
        while not self._closed.wait(min(interval, SILENCE_MAX / 4)):
            now = monotonic()
            if now - self._heard > SILENCE_MAX and self._stream is not None:
                self._stream.close()
            if now - reported >= interval:
                self._report()
                reported = now
        self._report()

    def _report(self) -> None:
        reports = self._judge.reports()
        try:
            while reports:
                self._authority.report_usage(reports[0].rows, batch_id=reports[0].batch_id)
                reports.popleft()
        except KeyAuthorityError as failure:
            not_reported(self._judge, self._trouble, failure)
        else:
            self._trouble.over(USAGE)
