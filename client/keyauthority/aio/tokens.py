"""The calls about tokens, awaited."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from keyauthority import convert
from keyauthority._requests import tokens
from keyauthority.aio.connection import AsyncConnection
from keyauthority.model import ApiTarget, App, KeyMode, Verdict
from keyauthority.requests import VerifyQuery


class AsyncTokenCalls(AsyncConnection):
    """Verifies tokens, and tells whose they are."""

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
        timeout: float | None = None,
    ) -> Verdict:
        """Tell whether a token may do what is asked. A denial is a verdict, not an exception.

        What is empty is not asked; `explain` fills the verdict's `failed`, and `include_record` its
        `key` and `project`. An exception means that nobody can tell: treat it as neither.
        """
        asked = tokens.presentation(
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
        return await self._call(
            self._keys.Verify, tokens.verify(asked), convert.verdict_from_proto, timeout
        )

    async def batch_verify(
        self, presentations: Iterable[VerifyQuery | str], *, timeout: float | None = None
    ) -> tuple[Verdict, ...]:
        """Verify 1 to 1000 tokens on one revision; the verdicts are in their order.

        A string is a token of which nothing further is asked. The verdicts have no labels,
        permissions and records.
        """
        request = tokens.batch_verify(presentations)
        return await self._call(
            self._keys.BatchVerify, request, convert.verdicts_from_proto, timeout
        )

    async def get_project_id(
        self, access_key: str | None, secret_key: str, *, timeout: float | None = None
    ) -> str:
        """Return the project that a key belongs to, for whoever holds its secret.

        The access key, if there is one, must match. Sends no operator key. Unauthenticated if the
        secret does not prove an existing key that is neither revoked nor superseded.
        """
        return await self._call(
            self._keys.GetProjectId,
            tokens.get_project_id(access_key, secret_key),
            tokens.project_id_of,
            timeout,
            metadata=(),
        )
