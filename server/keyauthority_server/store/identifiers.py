"""Ids and numbers of the counter row, believed only if they are such as a server writes."""

from __future__ import annotations

import re
from typing import Final

from keyauthority.model import LogId, Revision
from keyauthority_server.store.interface import StoreUnusable

REVISION_MAX: Final = 2**62  # more than are ever made; below what either engine's integers hold
_LOG_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.ASCII)


def log_id_from(value: object) -> LogId:
    """Return a log_id; StoreRefused unless it is a UUID in lower case."""
    if not isinstance(value, str) or not _LOG_ID.fullmatch(value):
        raise StoreUnusable("the database is damaged: its log_id is no UUID")
    return LogId(value)


def revision_from(value: object) -> Revision:
    """Return the revision that a log ends with; StoreRefused for one that no log comes to."""
    if not isinstance(value, int) or not 0 <= value <= REVISION_MAX:
        raise StoreUnusable("the database is damaged: its log ends with a revision that none has")
    return Revision(value)
