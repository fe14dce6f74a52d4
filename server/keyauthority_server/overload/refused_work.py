"""Bounds the processor time of requests that are refused after they have been parsed.

An authenticated operator is told which field of its request is wrong, which for a full batch takes
as long as to answer it. Each operator has some of that time; when it is used up, its large
requests are refused before they are parsed. Requests that are answered cost nothing of it.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from keyauthority.errors import ErrorReason, InvalidArgument, KeyAuthorityError, error
from keyauthority_server.overload.errors import RETRY_AFTER, ShedCounter, ShedReason
from keyauthority_server.rpc_types import JsonBody

PART: Final = 0.1  # of a core, for the refused requests of one operator in one worker
AT_ONCE: Final = 0.5  # seconds: eighty full batches with a damaged end
OPERATORS_MAX: Final = 10_000  # remembered; the one heard of longest ago is forgotten first

# The time of a call includes that of calls that ran meanwhile, so it is bounded by its size.
_SECONDS_MIN: Final = 0.01  # for a thousand empty items
_SECONDS_PER_BYTE: Final = 50e-9  # ten times what protobuf takes
_SECONDS_PER_BYTE_OF_JSON: Final = 500e-9  # JSON may be parsed beside other calls, in Python


class RefusedWork:
    """The time that is left to each operator. Used in the event loop only."""

    def __init__(
        self,
        counter: ShedCounter | None = None,
        now: Callable[[], float] = time.monotonic,
        cpu_time: Callable[[], float] = time.process_time,
    ) -> None:
        self._counter = counter
        self._now = now
        self._cpu_time = cpu_time
        self._debts: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """The time that each operator has used, and when that was so."""

    @contextmanager
    def charged(self, operator: str, body: bytes) -> Iterator[None]:
        """Charge the operator for the block if it ends with InvalidArgument.

        `body` is the request. Raises OVERLOADED if the operator has no time left.
        """
        if self._debts and self._debt(operator) >= AT_ONCE:
            if self._counter is not None:
                self._counter.refused(ShedReason.PEER)
            raise _overloaded()
        began = self._cpu_time()
        try:
            yield
        except InvalidArgument:
            is_json = isinstance(body, JsonBody)
            each = _SECONDS_PER_BYTE_OF_JSON if is_json else _SECONDS_PER_BYTE
            seconds = min(self._cpu_time() - began, _SECONDS_MIN + len(body) * each)
            self._debts[operator] = self._debt(operator) + seconds, self._now()
            self._debts.move_to_end(operator)
            if len(self._debts) > OPERATORS_MAX:
                self._debts.popitem(last=False)
            raise

    def _debt(self, operator: str) -> float:
        debt, since = self._debts.get(operator, (0.0, 0.0))
        return max(debt - (self._now() - since) * PART, 0.0)


def _overloaded() -> KeyAuthorityError:
    return error(
        ErrorReason.OVERLOADED,
        "too many invalid large requests of this operator",
        retry_after=RETRY_AFTER,
    )
