"""The shape of a database: its tables, columns, indexes, triggers and other active objects.

A trigger smuggled into a backup could undo every later revocation, and a view could replace a
table. So the shape of a database is compared with the shape that the migrations create: an engine
describes both in the same form, the expected one by running the migrations elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping

from keyauthority_server.store.interface import StoreUnusable

Shape = Mapping[str, str]
"""Maps the kind and name of each object to its definition."""


def differences(found: Shape, expected: Shape) -> list[str]:
    """Return the differences from the shape of the migrations, one line each."""
    return [
        *(f"it has {name}, which no migration makes" for name in sorted(found.keys() - expected)),
        *(f"it lacks {name}" for name in sorted(expected.keys() - found)),
        *(
            f"{name} is not as the migrations make it"
            for name in sorted(expected.keys() & found)
            if expected[name] != found[name]
        ),
    ]


def check_shape(found: Shape, expected: Shape, where: object) -> None:
    """Raise StoreUnusable unless a database has the shape of the migrations."""
    wrong = differences(found, expected)
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise StoreUnusable(f"the schema of {where} was altered: {wrong[0]}{more}")
