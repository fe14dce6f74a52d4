"""The shape of a database: its tables, columns, indexes, triggers and all else that acts in it.

A trigger that was smuggled into a backup can undo each revocation from then on, and a view can
stand for a table. So the shape of a database is compared with the one that the migrations make: an
engine describes both in the same words, the expected one by running the migrations elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping

from keyauthority_server.store.interface import StoreUnusable

Shape = Mapping[str, str]
"""Each object by its kind and name, to its definition."""


def differences(found: Shape, expected: Shape) -> list[str]:
    """Return what is not as the migrations make it, a line each; none if all is."""
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
    """Raise StoreRefused unless a database is as the migrations make it."""
    wrong = differences(found, expected)
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise StoreUnusable(f"the schema of {where} was altered: {wrong[0]}{more}")
