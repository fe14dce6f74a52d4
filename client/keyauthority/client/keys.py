# Generated from keyauthority/aio/keys.py by .ci/generate_sync.py: edit that file.
"""Calls of KeyAuthorityService: keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from keyauthority import convert
from keyauthority._requests import keys as key_requests
from keyauthority.client.connection import Connection, Listing
from keyauthority.model import (
    UNRESTRICTED,
    ImportSet,
    Key,
    KeyKind,
    KeyMode,
    KeyState,
    Quota,
    RateLimit,
    Restrictions,
    RevokeReason,
)
from keyauthority.requests import UNCHANGED, ImportedKey, Unchanged
from keyauthority.results import CreatedKey, ImportedKeys, RevokedKey, RotatedKey, WrittenKey


class KeyCalls(Connection):
    """Creates, reads, updates, rotates and revokes keys."""

    def create_key(
        self,
        project_id: str = "",
        *,
        mode: KeyMode | str | None = None,
        kind: KeyKind | str,
        purpose: str = "",
        permissions: Sequence[str] = (),
        restrictions: Restrictions = UNRESTRICTED,
        expire_time: datetime | None = None,
        ttl: timedelta | None = None,
        rate_limit: RateLimit | None = None,
        quota: Quota | None = None,
        labels: Mapping[str, str] | None = None,
        operator_projects: Sequence[str] = (),
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> CreatedKey:
        """Create a key and return it with its secret, which cannot be retrieved again.

        The key expires at `expire_time`, after `ttl`, or never; pass at most one. `project_id` and
        `mode` are required unless `kind` is "operator", which takes no project_id. A repeated
        `request_id`, a UUID, returns the key of the first call, for 24 hours; AlreadyExists if the
        other arguments differ. Raises InvalidArgument for an argument out of bounds, NotFound for
        an unknown project, PermissionDenied for an operator key that exceeds the caller's own.
        """
        request = key_requests.create_key(
            project_id,
            mode=mode,
            kind=kind,
            purpose=purpose,
            permissions=permissions,
            restrictions=restrictions,
            expire_time=expire_time,
            ttl=ttl,
            rate_limit=rate_limit,
            quota=quota,
            labels=labels,
            operator_projects=operator_projects,
            request_id=request_id,
        )
        return self._call(
            self._stubs.keys.CreateKey, request, convert.created_key_from_proto, timeout
        )

    def get_key(self, access_key: str, *, timeout: float | None = None) -> Key:
        """Return one key, without its secret.

        Raises NotFound if it does not exist or the caller may not see it.
        """
        return self._call(
            self._stubs.keys.GetKey, key_requests.get_key(access_key), key_requests.key_of, timeout
        )

    def list_keys(
        self,
        project_id: str = "",
        *,
        mode: KeyMode | str | None = None,
        kind: KeyKind | str | None = None,
        state: KeyState | str | None = None,
        labels: Mapping[str, str] | None = None,
        expires_before: datetime | None = None,
        used_before: datetime | None = None,
        never_used: bool = False,
        import_set: str = "",
        page_size: int = 0,
        timeout: float | None = None,
    ) -> Listing[Key]:
        """Return the keys that match all given filters, oldest first.

        Without `project_id`: the keys of all projects of the caller. Operator keys are listed only
        with kind "operator" and without a project_id. `import_set` names an import set; "*" means
        any. `page_size` is 1 to 1000; 0 means 100.
        """
        key_filter = key_requests.key_filter(
            mode=mode,
            kind=kind,
            state=state,
            labels=labels,
            expires_before=expires_before,
            used_before=used_before,
            never_used=never_used,
            import_set=import_set,
        )
        return Listing(
            lambda page_token: self._call(
                self._stubs.keys.ListKeys,
                key_requests.list_keys(project_id, key_filter, page_size, page_token),
                convert.key_page_from_proto,
                timeout,
            )
        )

    def update_key(
        self,
        access_key: str,
        *,
        purpose: str | Unchanged | None = UNCHANGED,
        permissions: Sequence[str] | Unchanged | None = UNCHANGED,
        restrictions: Restrictions | Unchanged | None = UNCHANGED,
        expire_time: datetime | Unchanged | None = UNCHANGED,
        rate_limit: RateLimit | Unchanged | None = UNCHANGED,
        quota: Quota | Unchanged | None = UNCHANGED,
        labels: Mapping[str, str] | Unchanged | None = UNCHANGED,
        disabled: bool | Unchanged = UNCHANGED,
        etag: str = "",
        timeout: float | None = None,
    ) -> WrittenKey:
        """Update the given fields of a key; None clears a field, UNCHANGED keeps it.

        Permissions, restrictions and labels are replaced as a whole. With `etag`, as read from the
        key, the call raises Aborted if the key has changed since. Raises NotFound for an unknown
        key, FailedPrecondition for a key that is superseded or revoked.
        """
        request = key_requests.update_key(
            access_key,
            purpose=purpose,
            permissions=permissions,
            restrictions=restrictions,
            expire_time=expire_time,
            rate_limit=rate_limit,
            quota=quota,
            labels=labels,
            disabled=disabled,
            etag=etag,
        )
        return self._call(
            self._stubs.keys.UpdateKey, request, convert.written_key_from_proto, timeout
        )

    def rotate_key(
        self,
        access_key: str,
        *,
        overlap: timedelta | None = None,
        expire_time: datetime | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> RotatedKey:
        """Replace a key by a successor with the same settings; return it with the new secret.

        The old key remains valid for `overlap`: 24 hours by default, 0 to 7 days, never beyond its
        own expiry. The successor expires at `expire_time`, by default after the lifetime that the
        old key was created with. Raises NotFound for an unknown key, FailedPrecondition for a key
        that is disabled, revoked or already rotated.
        """
        request = key_requests.rotate_key(access_key, overlap, expire_time, request_id)
        return self._call(
            self._stubs.keys.RotateKey, request, convert.rotated_key_from_proto, timeout
        )

    def revoke_key(
        self,
        access_key: str | None = None,
        *,
        secret_key: str | None = None,
        reason: RevokeReason | str | None = None,
        note: str = "",
        timeout: float | None = None,
    ) -> RevokedKey:
        """Revoke one key permanently, by its access key, its secret, or both.

        If both are given they must match. Once the call returns, every later Verify rejects the
        key. Idempotent: a key that is already revoked is left unchanged. `note` is stored with the
        key, at most 200 characters. Raises NotFound for an unknown access key, Unauthenticated for
        a secret that does not match a key.
        """
        request = key_requests.revoke_key(access_key, secret_key, reason, note)
        return self._call(
            self._stubs.keys.RevokeKey, request, convert.revoked_key_from_proto, timeout
        )

    def import_keys(
        self,
        import_set: ImportSet,
        keys: Iterable[ImportedKey],
        *,
        validate_only: bool = False,
        timeout: float | None = None,
    ) -> ImportedKeys:
        """Import 1 to 1000 keys of another system by their digests; their tokens go on verifying.

        A key with an error is left out, and the others are imported; repeating the call is safe.
        With `validate_only` nothing is written. Raises InvalidArgument for an invalid set,
        FailedPrecondition if a set of this name has another shape.
        """
        return self._call(
            self._stubs.keys.ImportKeys,
            key_requests.import_keys(import_set, keys, validate_only),
            convert.imported_keys_from_proto,
            timeout,
        )
