"""The calls about keys, awaited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from keyauthority import convert
from keyauthority._requests import keys
from keyauthority.aio.connection import AsyncConnection, AsyncListing
from keyauthority.model import (
    UNRESTRICTED,
    Key,
    KeyKind,
    KeyMode,
    KeyState,
    Quota,
    RateLimit,
    Restrictions,
    RevokeReason,
)
from keyauthority.requests import UNCHANGED, Unchanged
from keyauthority.results import CreatedKey, RevokedKey, RotatedKey, WrittenKey


class AsyncKeyCalls(AsyncConnection):
    """Makes, shows, changes, rotates and revokes keys."""

    async def create_key(
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
        """Make a key; the result holds its secret, which is never shown again.

        It ends at `expire_time` or after `ttl`, or never. Only an operator's key has no project_id
        and needs no mode.
        """
        request = keys.create_key(
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
        return await self._call(
            self._keys.CreateKey, request, convert.created_key_from_proto, timeout
        )

    async def get_key(self, access_key: str, *, timeout: float | None = None) -> Key:
        """Return one key, without its secret. NotFound if it is absent or not yours."""
        return await self._call(self._keys.GetKey, keys.get_key(access_key), keys.key_of, timeout)

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
        page_size: int = 0,
        timeout: float | None = None,
    ) -> AsyncListing[Key]:
        """Return the keys for which all that is given holds, oldest first.

        Without a project_id, of all your projects. Operators' keys are listed with kind "operator"
        and without project_id only. `page_size` is 1 to 1000, 0 means 100.
        """
        wanted = keys.key_filter(
            mode=mode,
            kind=kind,
            state=state,
            labels=labels,
            expires_before=expires_before,
            used_before=used_before,
            never_used=never_used,
        )
        return AsyncListing(
            lambda page_token: self._call(
                self._keys.ListKeys,
                keys.list_keys(project_id, wanted, page_size, page_token),
                convert.key_page_from_proto,
                timeout,
            )
        )

    async def update_key(
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
        """Change what is given of a key, and leave the rest; None clears a field.

        Permissions, restrictions and labels are given whole. `etag`, that of the key as you read
        it, makes the call Aborted if somebody has changed the key since. FailedPrecondition for a
        key that is superseded or revoked.
        """
        request = keys.update_key(
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
        return await self._call(
            self._keys.UpdateKey, request, convert.written_key_from_proto, timeout
        )

    async def rotate_key(
        self,
        access_key: str,
        *,
        overlap: timedelta | None = None,
        expire_time: datetime | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> RotatedKey:
        """Replace a key by a successor with all its settings; the result holds the new secret.

        The old key works on for `overlap`: 24 hours unless given, at most 7 days, and not at all
        for 0; never beyond its own expiry. The successor ends at `expire_time`, else after as long
        a life as the old key was given. FailedPrecondition for a key that is disabled, revoked, or
        rotated before.
        """
        request = keys.rotate_key(access_key, overlap, expire_time, request_id)
        return await self._call(
            self._keys.RotateKey, request, convert.rotated_key_from_proto, timeout
        )

    async def revoke_key(
        self,
        access_key: str | None = None,
        *,
        secret_key: str | None = None,
        reason: RevokeReason | str | None = None,
        note: str = "",
        timeout: float | None = None,
    ) -> RevokedKey:
        """Revoke one key for good, by its access key, its secret, or both, which then must match.

        A key that was revoked before is left as it is.
        """
        request = keys.revoke_key(access_key, secret_key, reason, note)
        return await self._call(
            self._keys.RevokeKey, request, convert.revoked_key_from_proto, timeout
        )
