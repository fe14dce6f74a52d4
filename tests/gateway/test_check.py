"""One check: only a verdict admits a request."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from keyauthority.errors import TYPES
from keyauthority.gateway.check import Admitted, Checker
from keyauthority.gateway.metrics import HTTP, Metrics
from keyauthority.gateway.requirements import Requirements
from keyauthority.http.rejection import Rejection, RejectionKind
from keyauthority.model import Verdict, VerdictCode
from tests.client.records import TOKEN

HEADERS = [("x-api-key", TOKEN)]


def checker(outcome: Verdict | Exception) -> tuple[Checker, Metrics]:
    """Return a checker whose verifier has this outcome."""

    async def verify(*_: Any, **__: Any) -> Verdict:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    metrics = Metrics()
    link: Any = SimpleNamespace(verifier=SimpleNamespace(verify=verify))
    return Checker(link, metrics), metrics


@pytest.mark.parametrize(
    "failure",
    [*(kind("down") for kind in TYPES), RuntimeError("defect"), ValueError(), RecursionError()],
    ids=lambda failure: type(failure).__name__,
)
async def test_every_failure_is_unavailable(failure: Exception) -> None:
    """A failure of the authority, of the network, or of the gateway itself admits no request."""
    checked, metrics = checker(failure)
    outcome = await checked.check(HTTP, HEADERS, "", Requirements())
    assert isinstance(outcome, Rejection)
    assert (RejectionKind.UNAVAILABLE, "unavailable") == (outcome.kind, outcome.error)
    assert 'verdict="unavailable"} 1' in metrics.text(None, 0)


@pytest.mark.parametrize("code", VerdictCode)
async def test_only_a_valid_verdict_admits(code: VerdictCode) -> None:
    """Each other verdict is a rejection with its own word."""
    checked, metrics = checker(Verdict(code))
    outcome = await checked.check(HTTP, HEADERS, "", Requirements())
    assert isinstance(outcome, Admitted) is (code is VerdictCode.VALID)
    assert isinstance(outcome, Admitted) or code.value == outcome.error
    assert f'verdict="{code.value}"}} 1' in metrics.text(None, 0)
    assert TOKEN not in repr(outcome)
