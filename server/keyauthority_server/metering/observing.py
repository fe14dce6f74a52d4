"""The presentations that are sighted: of decoys, and of keys at and after their end."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from keyauthority.clock import EPOCH
from keyauthority.decision import first_end_of
from keyauthority.model import CANARY_LABEL, Key, VerdictCode
from keyauthority_server.store.types import Sighting, SightingCause

_AT_END: Final = frozenset(
    {VerdictCode.REVOKED, VerdictCode.SUPERSEDED, VerdictCode.EXPIRED}
    | {VerdictCode.WRONG_ACCESS_KEY}  # which is checked before the end
)


def is_canary(key: Key) -> bool:
    """True for a key with the label of a decoy."""
    return CANARY_LABEL in key.labels


def is_observed(key: Key, now: datetime) -> bool:
    """True for a decoy, and for a key that was rotated or has ended."""
    return is_canary(key) or key.supersede_time is not None or first_end_of(key, now) is not None


def is_sighted(key: Key, code: VerdictCode) -> bool:
    """True if presentations of the key with a verdict may have sightings."""
    return code in _AT_END or key.supersede_time is not None or is_canary(key)


def sightings(
    key: Key, code: VerdictCode, count: int, times: tuple[datetime, datetime], peer: str
) -> Iterator[Sighting]:
    """Yield the sightings of presentations with one verdict, from the first to the last time.

    The verdict shows whether the key had ended: a presentation just before its revocation may
    have a later time than that. A reported time before the creation of the key counts as that.
    """
    first, last = (max(time, key.create_time) for time in times)
    presented = (count, first, last, peer)
    if is_canary(key):
        yield Sighting(key.access_key, SightingCause.CANARY, EPOCH, *presented)
    if code in _AT_END:
        end = first_end_of(key, last)
        if end is not None:
            yield Sighting(key.access_key, SightingCause.END, end, *presented)
    elif key.supersede_time is not None:
        yield Sighting(key.access_key, SightingCause.OVERLAP, key.supersede_time, *presented)
