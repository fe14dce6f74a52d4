"""One check: the facts of a request in, an admission or a rejection out; the same on both ends."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Final, NamedTuple

from keyauthority.errors import KeyAuthorityError
from keyauthority.gateway.authority import AuthorityLink
from keyauthority.gateway.metrics import Metrics
from keyauthority.gateway.requirements import Requirements
from keyauthority.http.credentials import read_key
from keyauthority.http.referrer import read_referrer
from keyauthority.http.rejection import UNAVAILABLE, Rejection, reject, reject_failure
from keyauthority.model import Verdict, VerdictCode

_log: Final = logging.getLogger(__name__)


class Admitted(NamedTuple):
    """An allowed request."""

    key: str
    verdict: Verdict

    def __repr__(self) -> str:
        return f"Admitted({self.verdict.access_key!r})"


class Checker:
    """Checks requests with the current verifier, and counts the outcomes."""

    def __init__(self, link: AuthorityLink, metrics: Metrics) -> None:
        self._link = link
        self._metrics = metrics

    async def check(
        self,
        end: str,
        headers: Sequence[tuple[str, str]],
        client_ip: str,
        requirements: Requirements | None,
    ) -> Admitted | Rejection:
        """Return the outcome; names of headers are in lower case.

        It raises nothing: a request is admitted by a verdict, and by nothing else.
        """
        try:
            outcome = await self._outcome(headers, client_ip, requirements)
        except KeyAuthorityError as failure:
            outcome = reject_failure(failure)
        except Exception:  # noqa: BLE001 - a defect must not admit a request, nor be shown
            _log.exception("a check failed")
            outcome = UNAVAILABLE
        word = outcome.error if isinstance(outcome, Rejection) else VerdictCode.VALID.value
        self._metrics.checked(end, word)
        return outcome

    async def _outcome(
        self,
        headers: Sequence[tuple[str, str]],
        client_ip: str,
        requirements: Requirements | None,
    ) -> Admitted | Rejection:
        if requirements is None:
            return UNAVAILABLE
        key = read_key(headers)
        if isinstance(key, Rejection):
            return key
        verdict = await self._link.verifier.verify(
            key,
            project_id=requirements.project_id,
            mode=requirements.mode,
            permissions=requirements.permissions,
            client_ip=client_ip,
            referrer=read_referrer(headers),
            api_target=requirements.api_target,
            cost=requirements.cost,
        )
        return reject(verdict) or Admitted(key, verdict)
