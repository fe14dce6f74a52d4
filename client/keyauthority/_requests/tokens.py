"""Requests of Verify, BatchVerify, GetProjectId and LookupKey."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from keyauthority import convert
from keyauthority._requests.arguments import as_invalid_argument, parse_enum, texts
from keyauthority.model import ApiTarget, App, Facts, KeyMode
from keyauthority.requests import VerifyQuery
from keyauthority.v1 import key_authority_service_pb2 as service_pb2


def verify_query(
    secret_key: str,
    access_key: str,
    project_id: str,
    mode: KeyMode | str | None,
    permissions: Sequence[str],
    client_ip: str,
    referrer: str,
    app: App | None,
    api_target: ApiTarget | None,
    cost: int,
    at_least_revision: int,
    log_id: str,
    explain: bool,
    include_record: bool,
) -> VerifyQuery:
    """Return the query of Verify. Positional arguments: a verifier builds one per microsecond."""
    facts = Facts(
        access_key,
        project_id,
        None if mode is None else parse_enum(KeyMode, mode, "mode"),
        permissions if type(permissions) is tuple else texts(permissions, "permissions"),
        client_ip,
        referrer,
        app,
        api_target,
    )
    return VerifyQuery(secret_key, facts, cost, at_least_revision, log_id, explain, include_record)


@as_invalid_argument
def verify(query: VerifyQuery) -> service_pb2.VerifyRequest:
    """Return the request of Verify."""
    return convert.verify_query_to_proto(query._replace(secret_key=_sendable(query.secret_key)))


@as_invalid_argument
def batch_verify(presentations: Iterable[VerifyQuery | str]) -> service_pb2.BatchVerifyRequest:
    """Return the request of BatchVerify; a string is a token without further checks."""
    return convert.batch_to_proto(
        VerifyQuery(secret_key=_sendable(query))
        if isinstance(query, str)
        else query._replace(secret_key=_sendable(query.secret_key))
        for query in presentations
    )


@as_invalid_argument
def get_project_id(access_key: str | None, secret_key: str) -> service_pb2.GetProjectIdRequest:
    """Return the request of GetProjectId."""
    return service_pb2.GetProjectIdRequest(access_key=access_key or "", secret_key=secret_key)


@as_invalid_argument
def lookup_key(secret_key: str) -> service_pb2.LookupKeyRequest:
    """Return the request of LookupKey."""
    return service_pb2.LookupKeyRequest(secret_key=_sendable(secret_key))


def _sendable(secret_key: str) -> str:
    """Return the token with lone surrogates replaced, so that it can be sent as UTF-8.

    A token is never an invalid argument: with or without the replacement it is MALFORMED. Raises
    TypeError for a value that is not text.
    """
    try:
        if secret_key.isascii():
            return secret_key
    except AttributeError:
        kind = type(secret_key).__name__
        raise TypeError(f"a secret key is a string, not {kind}") from None
    return secret_key.encode("utf-8", "replace").decode("utf-8")


def project_id_of(response: service_pb2.GetProjectIdResponse) -> str:
    """Return the result of GetProjectId."""
    return response.project_id
