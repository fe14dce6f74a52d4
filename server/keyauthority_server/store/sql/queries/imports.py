"""Import sets, and keys found by the digests of their tokens, the same for both engines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from keyauthority.model import ImportScheme, ImportSet, KeyKind, KeyMode, TokenPart
from keyauthority_server.store.interface import StoreDamaged
from keyauthority_server.store.rows import Rows
from keyauthority_server.store.sql.statements import (
    ADD_IMPORT_SET,
    FIND_IMPORTED,
    FOUND_AT_ONCE,
    IMPORT_SETS,
)
from keyauthority_server.store.types import ImportedToken


def import_sets(rows: Rows) -> list[ImportSet]:
    """Return all import sets, by name."""
    try:
        return [
            ImportSet(
                name=name,
                scheme=ImportScheme(scheme),
                token_part=TokenPart(part),
                token_prefix=prefix,
                token_length_min=least,
                token_length_max=most,
            )
            for name, scheme, part, prefix, least, most in rows.each(IMPORT_SETS)
        ]
    except ValueError as error:
        raise StoreDamaged("an import set cannot be read: damaged or altered") from error


def add_import_set(rows: Rows, new: ImportSet) -> None:
    """Store an import set whose name is new."""
    rows.run(
        ADD_IMPORT_SET,
        (
            new.name,
            new.scheme.value,
            new.token_part.value,
            new.token_prefix,
            new.token_length_min,
            new.token_length_max,
        ),
    )


def find_imported(rows: Rows, digests: Sequence[bytes]) -> dict[bytes, ImportedToken]:
    """Return the imported key whose digest begins with each, as the row says; some have none.

    The record is not compared with the log: read it before it is judged.
    """
    found = {}
    for some in _filled(digests):
        for digest, access_key, project_id, kind, mode, import_set in rows.each(
            FIND_IMPORTED[len(some)], some
        ):
            found[bytes(digest)] = ImportedToken(
                access_key, project_id, KeyKind(kind), KeyMode(mode), import_set
            )
    return found


def _filled(digests: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """Yield the values of each statement, repeating one if there are too few."""
    if len(digests) == 1:  # a Verify: it takes some 20 µs less
        yield digests
        return
    for start in range(0, len(digests), FOUND_AT_ONCE):
        some = digests[start : start + FOUND_AT_ONCE]
        yield [*some, *[some[0]] * (FOUND_AT_ONCE - len(some))]
