"""The tables that a copy of a store reads and writes, in this order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from keyauthority_server.store.sql.statements import (
    CHANGE_COLUMNS,
    IMPORT_SET_COLUMNS,
    PUT_KEY_COLUMNS,
    PUT_PROJECT_COLUMNS,
    REQUEST_COLUMNS,
)

PAGE_ROWS: Final = 250  # read at once; the longest change has some 600 KB

_LOWEST: Final = -(2**63)


class Table(NamedTuple):
    """A table to copy, and the order of its rows."""

    name: str
    columns: Sequence[str]
    by: str
    """A unique column; its order puts referenced rows before the rows that refer to them."""
    before_all: Any
    """A value below every value of that column."""

    @property
    def read(self) -> str:
        """The statement for a page after a cursor."""
        return (
            f"SELECT {', '.join(self.columns)} FROM {self.name}"  # noqa: S608 - texts of this module
            f" WHERE {self.by} > ? ORDER BY {self.by} LIMIT {PAGE_ROWS}"
        )

    @property
    def last(self) -> str:
        """The statement for the cursor of the last row."""
        return f"SELECT {self.by} FROM {self.name} ORDER BY {self.by} DESC LIMIT 1"  # noqa: S608 - as above

    @property
    def put(self) -> str:
        """The statement that writes a row."""
        places = ", ".join("?" * len(self.columns))
        return f"INSERT INTO {self.name} ({', '.join(self.columns)}) VALUES ({places})"  # noqa: S608 - as above


TABLES: Final = (
    Table("project", PUT_PROJECT_COLUMNS, "created_revision", _LOWEST),
    Table("key", (*PUT_KEY_COLUMNS, "last_used_time"), "created_revision", _LOWEST),
    Table("change", CHANGE_COLUMNS, "revision", _LOWEST),
    Table("key_check", ("name", "check_value"), "name", ""),
    Table("import_set", IMPORT_SET_COLUMNS, "name", ""),
    Table("request", REQUEST_COLUMNS, "name", b""),
    Table(
        "usage",
        (
            *("id", "granularity", "bucket_time", "access_key", "verdict"),
            *("project_id", "count", "cost", "last_used_time"),
        ),
        "id",
        _LOWEST,
    ),
    Table("usage_batch", ("batch_id", "end_time"), "batch_id", ""),
    Table(
        "refused",
        (
            *("id", "time", "times", "actor", "peer"),
            *("method", "reason", "project_id", "access_key"),
        ),
        "id",
        _LOWEST,
    ),
    Table(
        "sighting",
        (
            *("id", "access_key", "cause", "period"),
            *("count", "first_time", "last_time", "last_peer"),
        ),
        "id",
        _LOWEST,
    ),
    Table("permission_use", ("id", "access_key", "permission", "day"), "id", _LOWEST),
    Table("permission_use_start", ("id", "time"), "id", _LOWEST),
)
COUNTERS: Final = Table("counter", ("name", "start", "used"), "name", "")
"""An engine may keep this table in a separate database."""
NOT_COPIED: Final = frozenset({"log", "heartbeat", "handover", "counter_state"})
"""Tables without copied rows: their rows describe one database, and the row of `log` is written by
`close_source` and `finish`."""
SERIALS: Final = ("usage", "refused", "sighting", "permission_use")
"""Tables whose `id` the engine generates."""
