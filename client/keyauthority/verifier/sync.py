"""`Verifier`: evaluates in the process; a thread keeps its records up to date."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from datetime import timedelta
from types import TracebackType
from typing import Self

from keyauthority._requests.processes import on_fork
from keyauthority._requests.tokens import verify_query
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
    handle_report_failure,
    server_arguments,
    strip_records,
)


class Verifier:
    """Verifies tokens in this process, with the server's verdict, in microseconds.

    It calls the authority on the first use of a token, and whenever a limit or quota must be
    charged; every other verdict is evaluated locally, on records that WatchChanges keeps up to
    date. It needs an operator key with `keys:verify`, `keys:read`, `changes:watch` and
    `usage:report`. Without one of the first two `verify` raises PermissionDenied. Without
    `changes:watch` it calls the authority every time; without `usage:report` local verdicts are not
    counted. The log `keyauthority.verifier` reports either once. For an operator confined to
    projects, the keys of all other projects are UNKNOWN.

    Local records are at most `max_staleness` old. If the watch is silent for longer, every `verify`
    calls the authority, and raises Unavailable if it cannot be reached: the validity is unknown.
    With `fail_static`, counted from the last update of the watch, it continues with the local
    records for that long, and retries the authority once a second; revocations made in this time
    are not seen. It recovers automatically: within some 2 s of a restart of the authority, 10 s of
    the end of a network outage.

    It caches at most `max_keys` keys, some 4 KB each, and only a hash of each token. Facts such as
    addresses are evaluated in each call and never stored. Local verdicts are reported every
    `report_interval`, so usage and last-used times lag by at most that much. `timeout` limits a
    call to the authority, in seconds. Closing the verifier does not close the client. Raises
    ValueError for an option that is not positive, or a `fail_static` below `max_staleness`.

    Thread-safe. A forked process starts with an empty cache on first use.
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
        self._reset()
        on_fork(self)

    def _reset(self) -> None:
        """Set the initial state: an empty cache, no threads."""
        self._evaluator = self._policy.evaluator()
        self._failures = LogOnce()
        self._fresh = threading.Event()
        self._stream: Watch[WatchUpdate] | None = None
        self._last_update = monotonic()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._opened = True
        self._start()
        return self

    def _start(self) -> None:
        """Start the threads of this process, if they are not running."""
        with self._lock:
            if self._threads or not self._opened or self._closed.is_set():
                return
            self._threads = [
                threading.Thread(target=self._watch, name="keyauthority-watch", daemon=True),
                threading.Thread(target=self._report_loop, name="keyauthority-report", daemon=True),
            ]
            for thread in self._threads:
                thread.start()

    def _forked(self) -> None:
        """Reset in a forked process: threads are not copied, and the parent reports its counts."""
        closed = self._closed.is_set()
        self._closed = threading.Event()  # a thread of the parent may hold the lock of the old one
        if closed:
            self._closed.set()
        self._reset()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def revision(self) -> int:
        """The newest revision received; 0 before the first update of the watch."""
        return self._evaluator.cache.position.revision

    @property
    def staleness(self) -> timedelta | None:
        """The maximum age of the local records; None before the first update of the watch."""
        return self._evaluator.age(monotonic())

    def wait_until_fresh(self, timeout: float) -> bool:
        """Wait for the first update of the watch; return False after `timeout` seconds."""
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
        """Verify a token: `Client.verify`, evaluated locally where possible.

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
        return self._evaluator.evaluate(query, monotonic()) or self._verify(query)

    def close(self) -> None:
        """Report local verdicts and end the watch; later calls of `verify` use the authority."""
        self._closed.set()
        if self._stream is not None:
            self._stream.close()
        for thread in self._threads:
            thread.join()
        self._evaluator.forget()

    def _verify(self, query: VerifyQuery) -> Verdict:
        if not self._threads:
            self._start()
        evaluator, now = self._evaluator, monotonic()
        local = evaluator.fail_static_cached(query, now)
        if local is not None:
            return local
        try:
            verdict = self._authority.verify(
                query.secret_key, **server_arguments(query), timeout=self._policy.timeout
            )
        except CANNOT_TELL:
            local = evaluator.after_failure(query, monotonic())
            if local is None:
                raise
            return local
        evaluator.learn(query, verdict)
        return strip_records(query, verdict)

    def _watch(self) -> None:
        pause = RETRY_FIRST
        while not self._closed.is_set():
            try:
                self._follow()
                pause = RETRY_FIRST
            except FailedPrecondition as failure:
                self._evaluator.forget()  # the authority lost revisions: it was restored
                if failure.reason is None:  # raised by this library
                    self._failures.warn(WATCH, failure)
            except KeyAuthorityError as failure:
                self._failures.warn(WATCH, failure)
            self._closed.wait(pause)
            pause = min(2 * pause, RETRY_MAX)

    def _follow(self) -> None:
        self._last_update = monotonic()
        resume = self._evaluator.resume(self._last_update)
        with self._authority.watch_changes(
            from_revision=resume.from_revision, log_id=resume.log_id
        ) as stream:
            self._stream = stream
            if self._closed.is_set():  # `close` ran before the stream was assigned
                return
            for update in stream:
                self._last_update = monotonic()
                if not self._evaluator.apply(update, self._last_update):
                    return
                self._fresh.set()
                self._failures.clear(WATCH)

    def _report_loop(self) -> None:
        """Report at every interval and at the end; close a stream that has fallen silent."""
        interval = self._policy.report_interval.total_seconds()
        reported = monotonic()
        while not self._closed.wait(min(interval, SILENCE_MAX / 4)):
            now = monotonic()
            if now - self._last_update > SILENCE_MAX and self._stream is not None:
                self._stream.close()
            if now - reported >= interval:
                self._report()
                reported = now
        self._report()

    def _report(self) -> None:
        reports = self._evaluator.reports()
        try:
            while reports:
                self._authority.report_usage(reports[0].rows, batch_id=reports[0].batch_id)
                reports.popleft()
        except KeyAuthorityError as failure:
            handle_report_failure(self._evaluator, self._failures, failure)
        else:
            self._failures.clear(USAGE)
