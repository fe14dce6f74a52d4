"""Servicer of KeyAuthorityService: converts between messages and service calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from itertools import repeat

from keyauthority import convert
from keyauthority.errors import (
    ErrorReason,
    FieldViolation,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    error,
)
from keyauthority.model import VerdictCode
from keyauthority.requests import ImportedKey, VerifyQuery
from keyauthority.results import ImportFailure
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority_server.overload import address_of
from keyauthority_server.rpc import validate
from keyauthority_server.rpc.cached_verify import CachedBatchVerify
from keyauthority_server.rpc.certain_facts import certain_facts
from keyauthority_server.rpc.credentials import credential_of, has_credential
from keyauthority_server.rpc.field_rules import LIST_MAX
from keyauthority_server.rpc.fingerprint import DEFAULT_PAGE_SIZE, as_masked, content_of
from keyauthority_server.rpc.handlers import require_no_violations, require_valid
from keyauthority_server.rpc_types import Call
from keyauthority_server.services import Authority, CertificateIdentity, Credential, Principal


class KeyAuthorityServicer:
    """Methods in the order of the proto."""

    def __init__(self, authority: Authority, count: Callable[[str, int], None] | None) -> None:
        """`count` takes the name of each verdict."""
        self._count = count
        self._authority = authority
        self._keys = authority.keys
        self._verification = authority.verification
        self._cached_batch = CachedBatchVerify(authority)

    async def create_key(
        self, caller: Principal, request: pb.CreateKeyRequest
    ) -> pb.CreateKeyResponse:
        """See the proto."""
        new = convert.new_key_from_proto(request)
        created = await self._keys.create(caller, new, content_of(request))
        return convert.created_key_to_proto(created)

    async def get_key(self, caller: Principal, request: pb.GetKeyRequest) -> pb.GetKeyResponse:
        """See the proto."""
        key = await self._keys.get(caller, request.access_key)
        return pb.GetKeyResponse(key=convert.key_to_proto(key))

    async def list_keys(
        self, caller: Principal, request: pb.ListKeysRequest
    ) -> pb.ListKeysResponse:
        """See the proto."""
        page = await self._keys.list(
            caller,
            request.project_id,
            convert.key_filter_from_proto(request.filter),
            content_of(request),
            request.page_size or DEFAULT_PAGE_SIZE,
            request.page_token,
        )
        return convert.key_page_to_proto(page)

    async def update_key(
        self, caller: Principal, request: pb.UpdateKeyRequest
    ) -> pb.UpdateKeyResponse:
        """See the proto."""
        update = convert.key_update_from_proto(as_masked(request, request.update_mask))
        return convert.written_key_to_proto(await self._authority.updates.key(caller, update))

    async def rotate_key(
        self, caller: Principal, request: pb.RotateKeyRequest
    ) -> pb.RotateKeyResponse:
        """See the proto."""
        rotation = convert.rotation_from_proto(request)
        rotated = await self._authority.key_rotation.rotate(caller, rotation, content_of(request))
        return convert.rotated_key_to_proto(rotated)

    async def revoke_key(
        self, call: Call, request: pb.RevokeKeyRequest | None
    ) -> pb.RevokeKeyResponse:
        """See the proto. The right secret suffices, regardless of the caller's other rights."""
        caller = await self._revoker(call, request)
        try:
            require_valid(validate.revoke_key, request)
        except InvalidArgument:
            if request is not None and request.secret_key:
                await self._keys.access_key_of("", request.secret_key)
            raise
        assert request is not None  # noqa: S101 - for mypy: require_valid() rejects None
        revocation = convert.revocation_from_proto(request)
        access_key = revocation.access_key
        if revocation.secret_key:
            access_key = await self._keys.access_key_of(access_key, revocation.secret_key)
        if caller is not None:
            try:
                return convert.revoked_key_to_proto(
                    await self._keys.revoke(caller, access_key, revocation)
                )
            except (PermissionDenied, NotFound):
                if not revocation.secret_key:
                    raise
        return convert.revoked_key_to_proto(
            await self._keys.revoke_by_secret(access_key, revocation, address_of(call.peer))
        )

    async def verify(
        self, credential: Credential | CertificateIdentity, request: pb.VerifyRequest
    ) -> pb.VerifyResponse:
        """See the proto."""
        query = convert.verify_query_from_proto(request)
        verdict = await self._verification.verify(credential, query)
        self._count_verdicts((verdict.code,))
        return convert.verdict_to_proto(verdict)

    async def batch_verify(
        self, credential: Credential | CertificateIdentity, request: pb.BatchVerifyRequest
    ) -> pb.BatchVerifyResponse | bytes:
        """See the proto."""
        queries = await self._queries(request)
        if isinstance(credential, Credential):
            cached = await self._cached_batch.answer(credential, queries)
            if cached is not None:
                self._count_verdicts(repeat(VerdictCode.VALID, len(queries)))
                return cached
        verdicts = await self._verification.verify_batch(credential, queries)
        self._count_verdicts(verdict.code for verdict in verdicts)
        return convert.verdicts_to_proto(verdicts)

    async def _queries(self, request: pb.BatchVerifyRequest) -> list[VerifyQuery]:
        """Validate and convert the items of a batch; InvalidArgument names `requests[i].field`."""
        violations: list[FieldViolation] = []
        queries = []
        with self._verification.slices.begin() as slices:
            for index, item in enumerate(request.requests):
                if (facts := certain_facts(item)) is not None:
                    cost = item.cost if item.HasField("cost") else 1
                    queries.append(VerifyQuery(item.secret_key, facts, cost))
                else:
                    violations += validate.batch_item(index, item)
                    if len(violations) >= LIST_MAX:
                        break
                    if not violations:
                        queries.append(convert.batch_item_from_proto(index, item))
                if slices.are_over():
                    await slices.pause()
        require_no_violations(violations)
        return queries

    async def get_project_id(
        self, call: Call, request: pb.GetProjectIdRequest | None
    ) -> pb.GetProjectIdResponse:
        """See the proto."""
        if request is None or not request.secret_key:
            raise error(
                ErrorReason.CREDENTIAL_MISSING, "missing secret_key; send the secret of a key"
            )
        peer = address_of(call.peer)
        try:
            require_valid(validate.get_project_id, request)
        except InvalidArgument:
            await self._verification.project_id(request.secret_key, "", peer)
            raise
        project_id = await self._verification.project_id(
            request.secret_key, request.access_key, peer
        )
        return pb.GetProjectIdResponse(project_id=project_id)

    async def lookup_key(
        self, caller: Principal, request: pb.LookupKeyRequest
    ) -> pb.LookupKeyResponse:
        """See the proto."""
        return convert.key_lookup_to_proto(await self._keys.lookup(caller, request.secret_key))

    async def import_keys(
        self, caller: Principal, request: pb.ImportKeysRequest
    ) -> pb.ImportKeysResponse:
        """See the proto."""
        items: list[ImportedKey | ImportFailure] = []
        with self._verification.slices.begin(queued=True) as slices:
            for item in request.keys:
                items.append(_import_item(item))
                await slices.pause()
        imported = await self._authority.key_import.run(
            caller,
            convert.import_set_from_proto(request.import_set),
            items,
            validate_only=request.validate_only,
        )
        return convert.imported_keys_to_proto(imported)

    async def get_caller(self, caller: Principal, _: pb.GetCallerRequest) -> pb.GetCallerResponse:
        """See the proto."""
        return convert.caller_identity_to_proto(caller.identity)

    def _count_verdicts(self, codes: Iterable[VerdictCode]) -> None:
        if self._count is not None:
            for code, number in Counter(codes).items():
                self._count(code.name, number)

    async def _revoker(self, call: Call, request: pb.RevokeKeyRequest | None) -> Principal | None:
        secret = request is not None and bool(request.secret_key)
        if secret and not has_credential(call):
            return None
        try:
            return await self._authority.authenticate(
                credential_of(call), ("keys:revoke", "operators:revoke"), mutates=True
            )
        except PermissionDenied:
            if secret:
                return None
            raise


def _import_item(item: pb.ImportedKey) -> ImportedKey | ImportFailure:
    """Convert a key to import; an invalid one is a failure of its own, not of the call."""
    violations = validate.imported_key(item)
    if violations:
        text = "; ".join(f"{each.field}: {each.description}" for each in violations[:LIST_MAX])
        return ImportFailure(reason=ErrorReason.INVALID_FIELD, message=text)
    try:
        return convert.imported_key_from_proto(item)
    except InvalidArgument as invalid:
        return ImportFailure(reason=ErrorReason.INVALID_FIELD, message=invalid.message)
