"""Imports keys of other systems by the digests that those systems store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, NamedTuple

from keyauthority.errors import ErrorReason, error
from keyauthority.model import ChangeType, ImportSet, KeyKind, KeyMode
from keyauthority.requests import ImportedKey
from keyauthority.results import ImportedKeys, ImportFailure, ImportResult
from keyauthority.token import new_access_key
from keyauthority.weight import weight_of
from keyauthority_server.keyring import UnknownVersion
from keyauthority_server.services.context import ServiceContext
from keyauthority_server.services.key_creation import new_key, pepper_version, unused_access_key
from keyauthority_server.services.presented_tokens import imported_message
from keyauthority_server.services.principal import Principal
from keyauthority_server.services.token_digests import imported_digest
from keyauthority_server.store.interface import Transaction
from keyauthority_server.store.sql.queries import imports
from keyauthority_server.store.types import ImportedToken, Mutation, StoredKey

RIGHT: Final = "keys:import"
KEYS_AT_ONCE: Final = 100  # in one transaction, which a RevokeKey waits for: some 20 ms
WEIGHT_AT_ONCE: Final = 1_000  # of the keys made: one with long lists takes up to 40 ms

Item = ImportedKey | ImportFailure
"""A key to import, or the reason for which it is not."""


class _Pending(NamedTuple):
    """An item that passed its checks."""

    key: ImportedKey
    kind: KeyKind
    mode: KeyMode
    found_by: dict[int, bytes]
    """The first part of the digest that the key has if it exists, by pepper version."""


class KeyImport:
    """Imports keys."""

    def __init__(self, context: ServiceContext) -> None:
        self._context = context

    async def run(
        self,
        caller: Principal,
        import_set: ImportSet,
        items: Sequence[Item],
        *,
        validate_only: bool,
    ) -> ImportedKeys:
        """Import the items, or only check them; return the outcome of each.

        Items are committed in groups, in order. FailedPrecondition if the set exists with another
        shape.
        """
        results: list[ImportResult] = []
        revision, most = 0, len(items) if validate_only else KEYS_AT_ONCE
        while group := items[len(results) : len(results) + most]:
            done, revision = await self._import_group(caller, import_set, group, validate_only)
            results += done
        return ImportedKeys(results=tuple(results), revision=revision, log_id=self._context.log_id)

    async def _import_group(
        self, caller: Principal, import_set: ImportSet, items: Sequence[Item], validate_only: bool
    ) -> tuple[list[ImportResult], int]:
        def work(
            transaction: Transaction, current: Principal, now: datetime
        ) -> tuple[list[ImportResult], int]:
            is_new = _is_new(transaction, import_set)
            group = _Group(self._context, transaction, import_set, current, now, validate_only)
            results = group.run(items)
            if is_new and any(result.access_key for result in results):  # no set without a key
                transaction.bookkeep(imports.add_import_set, import_set)
            return results, transaction.head

        return await self._context.mutate(caller, RIGHT, work)


def _is_new(transaction: Transaction, wanted: ImportSet) -> bool:
    """Return True unless the set exists; raise FailedPrecondition if it has another shape."""
    present = {each.name: each for each in transaction.query(imports.import_sets)}.get(wanted.name)
    if present not in (None, wanted):
        raise error(
            ErrorReason.IMPORT_SET_MISMATCH,
            f"import set {wanted.name} exists with another scheme or shape of tokens;"
            " use another name",
        )
    return present is None


class _Group:
    """The items of one transaction."""

    def __init__(
        self,
        context: ServiceContext,
        transaction: Transaction,
        import_set: ImportSet,
        caller: Principal,
        now: datetime,
        validate_only: bool,
    ) -> None:
        self._transaction = transaction
        self._peppers = context.peppers
        self._version = pepper_version(transaction, self._peppers)
        if self._version not in self._peppers.versions:
            raise UnknownVersion(self._version)
        self._set = import_set
        self._caller = caller
        self._now = now
        self._validate_only = validate_only
        self._weight = 0  # of the keys made
        self._known: dict[bytes, ImportedToken] = {}
        """Keys found in the store, and those of this group, by the first parts of their digests."""

    def run(self, items: Sequence[Item]) -> list[ImportResult]:
        """Import the first items, at least one; return the outcome of each."""
        checked = [self._checked(item) for item in items]
        digests = [
            digest
            for each in checked
            if isinstance(each, _Pending)
            for digest in each.found_by.values()
        ]
        self._known = self._transaction.query(imports.find_imported, digests)
        results: list[ImportResult] = []
        for each in checked:
            if self._weight > WEIGHT_AT_ONCE:
                break
            if isinstance(each, _Pending):
                results.append(self._import(each))
            else:
                results.append(ImportResult(error=each))
        return results

    def _checked(self, item: Item) -> _Pending | ImportFailure:
        if isinstance(item, ImportFailure):
            return item
        if item.kind is None or item.mode is None:
            return _failure(ErrorReason.INVALID_FIELD, "kind and mode: required")
        message = imported_message(self._set.scheme, item.digest)
        if message is None:
            return _failure(
                ErrorReason.INVALID_FIELD,
                f"digest: wrong length or alphabet for scheme {self._set.scheme.name}",
            )
        if self._transaction.project(item.project_id, None) is None:
            return _failure(ErrorReason.PROJECT_NOT_FOUND, "no such project")
        versions = self._peppers.versions
        found_by = {version: self._peppers.digest(message, version) for version in versions}
        return _Pending(item, item.kind, item.mode, found_by)

    def _import(self, pending: _Pending) -> ImportResult:
        present = next(
            (self._known[each] for each in pending.found_by.values() if each in self._known), None
        )
        item = pending.key
        if present is not None:
            if (present.project_id, present.import_set) != (item.project_id, self._set.name):
                return ImportResult(
                    error=_failure(
                        ErrorReason.DIGEST_TAKEN,
                        "a key with this digest belongs to another project or import set",
                    )
                )
            return ImportResult(access_key=present.access_key)
        access_key = "" if self._validate_only else self._create(pending)
        imported = ImportedToken(
            access_key, item.project_id, pending.kind, pending.mode, self._set.name
        )
        self._known.update(dict.fromkeys(pending.found_by.values(), imported))
        return ImportResult(access_key=access_key, created=True)

    def _create(self, pending: _Pending) -> str:
        item = pending.key
        access_key = unused_access_key(self._transaction, new_access_key())
        key = replace(
            new_key(item, self._caller, access_key, pending.kind, pending.mode, self._now),
            import_set=self._set.name,
            foreign_id=item.foreign_id,
        )
        self._weight += weight_of(key)
        digest = imported_digest(
            self._peppers, pending.found_by[self._version], access_key, self._version
        )
        stored = StoredKey(key, digest, self._version, access_key)
        self._transaction.apply(
            Mutation(self._caller, ChangeType.KEY_CREATED, self._now, (stored,))
        )
        return access_key


def _failure(reason: ErrorReason, message: str) -> ImportFailure:
    return ImportFailure(reason=reason, message=message)
