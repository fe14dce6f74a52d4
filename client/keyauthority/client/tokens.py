# Generated from keyauthority/aio/tokens.py by .ci/generate_sync.py: edit that file.
"""Calls of KeyAuthorityService: verification of tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from keyauthority import convert
from keyauthority._requests import tokens
from keyauthority.client.connection import Connection
from keyauthority.model import ApiTarget, App, KeyMode, Verdict
from keyauthority.requests import VerifyQuery
from keyauthority.results import CallerIdentity, KeyLookup
from keyauthority.v1 import key_authority_service_pb2 as service_pb2


class TokenCalls(Connection):
    """Verifies tokens and resolves their projects."""

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
        timeout: float | None = None,
    ) -> Verdict:
        """Verify a token and return the verdict. A denial is a verdict, not an exception.

        Empty arguments are not checked. `cost` is the number of units spent from the limits of the
        key; 0 reads them only. `explain` fills the verdict's `failed`, `include_record` its `key`
        and `project`. An exception means that the validity is unknown: treat the token as neither
        valid nor denied.
        """
        query = tokens.verify_query(
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
        return self._call(
            self._stubs.keys.Verify, tokens.verify(query), convert.verdict_from_proto, timeout
        )

    def batch_verify(
        self, presentations: Iterable[VerifyQuery | str], *, timeout: float | None = None
    ) -> tuple[Verdict, ...]:
        """Verify 1 to 1000 tokens at one revision; verdicts are in the order of the tokens.

        A string is a token without further checks. The verdicts have no labels, permissions or
        records.
        """
        request = tokens.batch_verify(presentations)
        return self._call(
            self._stubs.keys.BatchVerify, request, convert.verdicts_from_proto, timeout
        )

    def get_project_id(
        self, access_key: str | None, secret_key: str, *, timeout: float | None = None
    ) -> str:
        """Return the project ID of a key; its secret is the only credential.

        The access key, if given, must match. The operator key is not sent. Raises Unauthenticated
        if the secret does not match an existing key, or the key is revoked or superseded.
        """
        return self._call(
            self._stubs.keys.GetProjectId,
            tokens.get_project_id(access_key, secret_key),
            tokens.project_id_of,
            timeout,
            metadata=(),
        )

    def lookup_key(self, secret_key: str, *, timeout: float | None = None) -> KeyLookup:
        """Return the key that a token proves, in any state, with its project.

        Counts nothing and does not move `last_used_time`. Raises NotFound if the text is no token
        of a key that the caller may see; for an operator key the caller needs "operators:read".
        """
        return self._call(
            self._stubs.keys.LookupKey,
            tokens.lookup_key(secret_key),
            convert.key_lookup_from_proto,
            timeout,
        )

    def get_caller(self, *, timeout: float | None = None) -> CallerIdentity:
        """Return the identity and rights of this client's operator key or certificate.

        Needs no right. Raises Unauthenticated if the credential is not valid.
        """
        return self._call(
            self._stubs.keys.GetCaller,
            service_pb2.GetCallerRequest(),
            convert.caller_identity_from_proto,
            timeout,
        )
