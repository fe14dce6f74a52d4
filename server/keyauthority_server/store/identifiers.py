"""Validation of the log's id and revision as read from the counter row."""

from __future__ import annotations

from typing import Final

from keyauthority.model import LogId, Revision
from keyauthority.text import UUID
from keyauthority_server.store.interface import StoreUnusable

REVISION_MAX: Final = 2**62  # never reached; below the integer range of both engines


def log_id_from(value: object) -> LogId:
    """Return a log_id; StoreUnusable unless it is a UUID in lower case."""
    if not isinstance(value, str) or not UUID.fullmatch(value):
        raise StoreUnusable("the database is damaged: its log_id is no UUID")
    return LogId(value)


def revision_from(value: object) -> Revision:
    """Return the revision of a log's head; StoreUnusable if it is out of range."""
    if not isinstance(value, int) or not 0 <= value <= REVISION_MAX:
        raise StoreUnusable("the database is damaged: the revision of its log is out of range")
    return Revision(value)
