"""Request and response of Verify <-> proto, on the hot path."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from keyauthority.convert.enums import (
    KIND_FROM_PROTO,
    KIND_TO_PROTO,
    MODE_FROM_PROTO,
    MODE_TO_PROTO,
    VERDICT_FROM_PROTO,
    VERDICT_TO_PROTO,
    number_of,
)
from keyauthority.convert.records import (
    key_from_proto,
    key_to_proto,
    project_from_proto,
    project_to_proto,
)
from keyauthority.convert.requests import optional
from keyauthority.convert.times import timestamp, to_datetime
from keyauthority.errors import InvalidArgument, bad_field
from keyauthority.model import ApiTarget, App, Facts, Labels, Standing, Verdict, VerdictCode
from keyauthority.requests import VerifyQuery
from keyauthority.v1 import key_authority_service_pb2 as service_pb2
from keyauthority.v1 import key_pb2


def app_to_proto(app: App | None) -> service_pb2.App | None:
    """Return the app as a proto; None for None."""
    if app is None:
        return None
    return service_pb2.App(
        android_package=app.android_package,
        android_sha1=app.android_sha1,
        ios_bundle_id=app.ios_bundle_id,
    )


def app_from_proto(proto: service_pb2.App) -> App:
    """Return the app."""
    return App(
        android_package=proto.android_package,
        android_sha1=proto.android_sha1,
        ios_bundle_id=proto.ios_bundle_id,
    )


def api_target_to_proto(target: ApiTarget | None) -> service_pb2.ApiTarget | None:
    """Return the target as a proto; None for None."""
    if target is None:
        return None
    return service_pb2.ApiTarget(service=target.service, method=target.method)


def api_target_from_proto(proto: service_pb2.ApiTarget) -> ApiTarget:
    """Return the target."""
    return ApiTarget(proto.service, proto.method)


def verify_query_to_proto(query: VerifyQuery) -> service_pb2.VerifyRequest:
    """Return the request as a proto; a cost of 1, the default, is left unset."""
    facts = query.facts
    return service_pb2.VerifyRequest(
        secret_key=query.secret_key,
        access_key=facts.access_key,
        project_id=facts.project_id,
        mode=number_of(MODE_TO_PROTO, facts.mode),
        permissions=facts.permissions,
        client_ip=facts.client_ip,
        referrer=facts.referrer,
        app=app_to_proto(facts.app),
        api_target=api_target_to_proto(facts.api_target),
        cost=None if query.cost == 1 else query.cost,
        at_least_revision=query.at_least_revision,
        log_id=query.log_id,
        explain=query.explain,
        include_record=query.include_record,
    )


def verify_query_from_proto(proto: service_pb2.VerifyRequest) -> VerifyQuery:
    """Return the request. Raises InvalidArgument for an unknown mode."""
    return VerifyQuery(
        proto.secret_key,
        facts_from_proto(proto),
        proto.cost if proto.HasField("cost") else 1,
        proto.at_least_revision,
        proto.log_id,
        proto.explain,
        proto.include_record,
    )


def facts_from_proto(proto: service_pb2.VerifyRequest) -> Facts:
    """Return the facts of the request. Raises InvalidArgument for an unknown mode."""
    return Facts(
        proto.access_key,
        proto.project_id,
        optional(MODE_FROM_PROTO, proto.mode, "mode"),
        tuple(proto.permissions),
        proto.client_ip,
        proto.referrer,
        app_from_proto(proto.app) if proto.HasField("app") else None,
        api_target_from_proto(proto.api_target) if proto.HasField("api_target") else None,
    )


def batch_to_proto(queries: Iterable[VerifyQuery]) -> service_pb2.BatchVerifyRequest:
    """Return the requests as one batch."""
    return service_pb2.BatchVerifyRequest(requests=map(verify_query_to_proto, queries))


def batch_item_from_proto(index: int, proto: service_pb2.VerifyRequest) -> VerifyQuery:
    """Return one request of a batch. Raises InvalidArgument, naming `requests[index].field`."""
    try:
        return verify_query_from_proto(proto)
    except InvalidArgument as error:
        field, description = error.fields[0]
        raise bad_field(f"requests[{index}].{field}", description) from None


def standing_from_proto(proto: key_pb2.Standing) -> Standing:
    """Return the standing. Raises ValueError for an invalid time."""
    return Standing(
        proto.limit,
        proto.remaining,
        to_datetime(proto.reset_time) if proto.HasField("reset_time") else None,
    )


def verdict_to_proto(verdict: Verdict) -> service_pb2.VerifyResponse:
    """Return the verdict as a proto."""
    response = _brief(verdict)
    if verdict.permissions:
        response.permissions.extend(verdict.permissions)
    if verdict.labels:
        response.labels.update(verdict.labels)
    if verdict.key is not None:
        response.key.CopyFrom(key_to_proto(verdict.key))
    if verdict.project is not None:
        response.project.CopyFrom(project_to_proto(verdict.project))
    return response


def verdicts_to_proto(verdicts: Iterable[Verdict]) -> service_pb2.BatchVerifyResponse:
    """Return the response of BatchVerify, without labels, permissions and records."""
    return service_pb2.BatchVerifyResponse(responses=map(_brief, verdicts))


def _brief(verdict: Verdict) -> service_pb2.VerifyResponse:
    code = verdict.code
    response = service_pb2.VerifyResponse()  # assigning single fields is faster than keywords
    response.valid = code is VerdictCode.VALID
    response.verdict = VERDICT_TO_PROTO[code]
    response.revision = verdict.revision
    response.log_id = verdict.log_id
    if verdict.access_key:
        _describe(verdict, response)
    if verdict.failed:
        response.failed.extend(VERDICT_TO_PROTO[failed] for failed in verdict.failed)
    return response


def _describe(verdict: Verdict, response: service_pb2.VerifyResponse) -> None:
    """Set the fields of a genuine token's key that single and batch responses share."""
    response.access_key = verdict.access_key
    response.project_id = verdict.project_id
    if verdict.mode is not None:
        response.mode = MODE_TO_PROTO[verdict.mode]
    if verdict.kind is not None:
        response.kind = KIND_TO_PROTO[verdict.kind]
    if verdict.expire_time is not None:
        response.expire_time.CopyFrom(timestamp(verdict.expire_time))
    _set_standings(verdict, response)


def standings_to_proto(verdict: Verdict) -> service_pb2.VerifyResponse:
    """Return the standings alone: the part of a response that each spend changes."""
    response = service_pb2.VerifyResponse()
    _set_standings(verdict, response)
    return response


def _set_standings(verdict: Verdict, response: service_pb2.VerifyResponse) -> None:
    if verdict.key_standing is not None:
        _set_standing(verdict.key_standing, response.key_standing)
    if verdict.project_standing is not None:
        _set_standing(verdict.project_standing, response.project_standing)
    if verdict.quota_standing is not None:
        _set_standing(verdict.quota_standing, response.quota_standing)


def _set_standing(standing: Standing, proto: key_pb2.Standing) -> None:
    proto.limit = standing.limit
    proto.remaining = standing.remaining
    if standing.reset_time is not None:
        proto.reset_time.CopyFrom(timestamp(standing.reset_time))


def verdict_from_proto(proto: service_pb2.VerifyResponse) -> Verdict:
    """Return the verdict. Raises ValueError for one unknown to this version.

    Such a response is neither valid nor denied: the validity is unknown.
    """
    code = VERDICT_FROM_PROTO.get(proto.verdict)
    if code is None or proto.valid != (code is VerdictCode.VALID):
        raise ValueError("the verdict is not one that this version knows")
    present: Mapping[str, object] = {field.name: value for field, value in proto.ListFields()}
    return Verdict(
        code=code,
        access_key=proto.access_key,
        project_id=proto.project_id,
        mode=MODE_FROM_PROTO.get(proto.mode),
        kind=KIND_FROM_PROTO.get(proto.kind),
        permissions=tuple(proto.permissions),
        labels=Labels(proto.labels),
        expire_time=to_datetime(proto.expire_time) if "expire_time" in present else None,
        key_standing=standing_from_proto(proto.key_standing) if "key_standing" in present else None,
        project_standing=(
            standing_from_proto(proto.project_standing) if "project_standing" in present else None
        ),
        quota_standing=(
            standing_from_proto(proto.quota_standing) if "quota_standing" in present else None
        ),
        revision=proto.revision,
        log_id=proto.log_id,
        failed=_codes(proto.failed),
        key=key_from_proto(proto.key) if "key" in present else None,
        project=project_from_proto(proto.project) if "project" in present else None,
    )


def verdicts_from_proto(proto: service_pb2.BatchVerifyResponse) -> tuple[Verdict, ...]:
    """Return the verdicts of a batch, in order. Raises ValueError for an unknown one."""
    return tuple(map(verdict_from_proto, proto.responses))


def _codes(numbers: Sequence[service_pb2.Verdict.ValueType]) -> tuple[VerdictCode, ...]:
    """Return the known codes; additional checks of a newer server are omitted."""
    return tuple(VERDICT_FROM_PROTO[number] for number in numbers if number in VERDICT_FROM_PROTO)
