"""Statements run in one transaction: the interface between queries and an engine's driver."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol

Row = Sequence[Any]


def characters(row: Row) -> int:
    """Return the length of the texts of a row together."""
    return sum(len(value) for value in row if isinstance(value, str))


class ValuesTable(NamedTuple):
    """A list of values as a table `requested (number, value)`, in the engine's dialect."""

    table: str
    """A WITH clause with one parameter, the prefix of a statement."""
    value: Any


class SetStatement(NamedTuple):
    """A statement that returns no rows, for a set of rows of values."""

    each: str
    """For one row: of an INSERT, with `VALUES (?, ...)`."""
    types: tuple[str, ...]
    """The SQL types of the values."""
    joined: str = ""
    """For all rows at once, from the table `{given}`; an INSERT needs none."""


class Rows(Protocol):
    """Runs statements in one transaction; translates driver errors to StoreError."""

    def one(self, statement: str, values: Sequence[Any] = ()) -> Row | None:
        """Return the first row, or None."""
        ...

    def each(self, statement: str, values: Sequence[Any] = ()) -> Iterable[Row]:
        """Return the rows, as they are read."""
        ...

    def run(self, statement: str, values: Sequence[Any] = ()) -> None:
        """Run a statement that returns no rows."""
        ...

    def run_many(self, statement: str, values: Iterable[Sequence[Any]]) -> None:
        """Run a statement that returns no rows, once for each sequence of values."""
        ...

    def run_set(self, statement: SetStatement, values: Sequence[Sequence[Any]]) -> None:
        """Run a statement for a set of rows of values, of which no two change the same row."""
        ...

    def values_table(self, values: Iterable[str]) -> ValuesTable:
        """Return values as a table for a statement."""
        ...
