# Generated from keyauthority/verifier/aio_calls.py by .ci/generate_sync.py: edit that file.
"""The calls of `Verifier`: verifications and usage reports. The watch is in `sync`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import timedelta
from typing import ClassVar

from keyauthority._requests.processes import on_fork
from keyauthority._requests.tokens import verify_query
from keyauthority.client import Client
from keyauthority.clock import monotonic
from keyauthority.errors import FailedPrecondition, KeyAuthorityError, PermissionDenied
from keyauthority.model import ApiTarget, App, KeyMode, Verdict
from keyauthority.requests import ANY_IMPORT_SET, VerifyQuery
from keyauthority.verifier.policy import (
    BOUND,
    CANNOT_TELL,
    IMPORTS,
    USAGE,
    WATCH,
    LogOnce,
    Policy,
    check_client,
    handle_report_failure,
    server_arguments,
    strip_records,
)


class VerifierCalls(ABC):
    """A verifier without its watch, which a subclass runs."""

    _other_client: ClassVar[type]
    """The kind of client that the verifier cannot use."""

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
        check_client(self, authority, self._other_client)
        self._authority = authority
        self._policy = Policy(
            max_staleness=max_staleness,
            fail_static=fail_static,
            max_keys=max_keys,
            report_interval=report_interval,
            timeout=timeout,
        )
        self._opened = False
        self._reset()
        on_fork(self)

    def _reset(self) -> None:
        """Set the initial state: an empty cache, no watch."""
        self._evaluator = self._policy.evaluator()
        self._failures = LogOnce()

    def _forked(self) -> None:
        """Reset in a forked process: the watch is not copied, and the parent reports its counts."""
        self._reset()

    @abstractmethod
    def _start(self) -> None:
        """Start the watch, if the verifier is open and the watch is not running."""

    @abstractmethod
    def _follow(self) -> None:
        """Apply the updates of one stream until it ends."""

    @property
    def revision(self) -> int:
        """The newest revision received; 0 before the first update of the watch."""
        return self._evaluator.cache.position.revision

    @property
    def staleness(self) -> timedelta | None:
        """The maximum age of the local records; None before the first update of the watch."""
        return self._evaluator.age(monotonic())

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
        local = self._evaluator.evaluate(query, monotonic())
        return self._call(query) if local is None else local  # a denial is false

    def _call(self, query: VerifyQuery) -> Verdict:
        """Return the server's verdict; while it does not respond, the fail-static one."""
        self._start()
        evaluator = self._evaluator
        static = evaluator.fail_static_cached(query, monotonic())
        if static is not None:
            return static
        try:
            verdict = self._authority.verify(
                query.secret_key, **server_arguments(query), timeout=self._policy.timeout
            )
        except CANNOT_TELL:
            static = evaluator.after_failure(query, monotonic())
            if static is None:
                raise
            return static
        evaluator.learn(query, verdict)
        return strip_records(query, verdict)

    def _follow_once(self) -> bool:
        """Follow one stream; return False after a failure."""
        try:
            self._follow()
        except FailedPrecondition as failure:
            self._evaluator.forget()  # the authority lost revisions: it was restored
            if failure.reason is None:  # raised by this library
                self._failures.warn(WATCH, failure)
        except KeyAuthorityError as failure:
            self._failures.warn(WATCH, failure)
        else:
            return True
        return False

    def _look_for_imports(self) -> None:
        """Find out, once for each log, whether texts of another grammar can be tokens."""
        cache = self._evaluator.cache
        if cache.imports is not None:
            return
        log_id, found = cache.position.log_id, False
        try:
            for _ in self._authority.list_keys(import_set=ANY_IMPORT_SET, page_size=1):
                found = True
                break
        except KeyAuthorityError as failure:
            self._failures.warn(IMPORTS, failure)
            if not isinstance(failure, PermissionDenied):
                return  # tried again at the next update
            found = True
        cache.learn_imports(log_id, found)

    def _report(self) -> None:
        """Report the counts of local verdicts."""
        reports = self._evaluator.reports()
        try:
            while reports:
                batch_id, rows, observations = reports[0]
                self._authority.report_usage(rows, observations=observations, batch_id=batch_id)
                reports.popleft()
        except KeyAuthorityError as failure:
            handle_report_failure(self._evaluator, self._failures, failure)
        else:
            self._failures.clear(USAGE)
