"""`Verifier`: evaluates in the process; a thread keeps its records up to date."""

from __future__ import annotations

import threading
from typing import Self

from keyauthority._requests.processes import is_outdated
from keyauthority.aio import AsyncClient
from keyauthority.client import Watch
from keyauthority.clock import monotonic
from keyauthority.results import WatchUpdate
from keyauthority.verifier.policy import RETRY_FIRST, RETRY_MAX, SILENCE_MAX, WATCH
from keyauthority.verifier.sync_calls import VerifierCalls


class Verifier(VerifierCalls):
    """Verifies tokens in this process, with the server's verdict, in microseconds.

    It calls the authority on the first use of a token, and whenever a limit or quota must be
    spent from; every other verdict is evaluated locally, on records that WatchChanges keeps up
    to date. It needs an operator key with `keys:verify`, `keys:read`, `changes:watch` and
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

    It caches at most `max_keys` usual keys, some 4 KB each, and only a hash of each token. A key
    with long lists counts as several. Facts such as addresses are evaluated in each call and never
    stored. Local verdicts are reported every `report_interval`, so usage and last-used times lag by
    at most that much. `timeout` limits a call to the authority, in seconds. Closing the verifier
    does not close the client. Raises ValueError for an option that is not positive, or a
    `fail_static` below `max_staleness`.

    Thread-safe. A forked process starts with an empty cache on first use.
    """

    _other_client = AsyncClient

    def __enter__(self) -> Self:
        self._opened = True
        self._start()
        return self

    def _reset(self) -> None:
        """Set the initial state: an empty cache, no threads."""
        super()._reset()
        self._closed = threading.Event()
        self._fresh = threading.Event()
        self._stream: Watch[WatchUpdate] | None = None
        self._last_update = monotonic()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []

    def _start(self) -> None:
        """Start the threads of this process, if they are not running."""
        if is_outdated(self._lock):
            self._reset()
        with self._lock:
            if self._threads or not self._opened or self._closed.is_set():
                return
            self._threads = [
                threading.Thread(target=self._watch, name="keyauthority-watch", daemon=True),
                threading.Thread(target=self._report_loop, name="keyauthority-report", daemon=True),
            ]
            for thread in self._threads:
                thread.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait_until_fresh(self, timeout: float) -> bool:
        """Wait for the first update of the watch; return False after `timeout` seconds."""
        self._start()
        return self._fresh.wait(timeout)

    def close(self) -> None:
        """Report local verdicts and end the watch; later calls of `verify` use the authority."""
        self._opened = False
        self._closed.set()
        if self._stream is not None:
            self._stream.close()
        for thread in self._threads:
            thread.join()
        self._evaluator.forget()

    def _watch(self) -> None:
        pause = RETRY_FIRST
        while not self._closed.is_set():
            if self._follow_once():
                pause = RETRY_FIRST
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
                self._look_for_imports()

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
