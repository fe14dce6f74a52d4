"""Decoded keys and projects in memory, as of one position in the change log.

It never decides how old an answer may be: each engine's freshness rule does, and nothing is kept by
age. Begin with `cache.RecordCache`.
"""

from keyauthority_server.records.cache import CacheCounts, CachedKey, RecordCache
from keyauthority_server.records.freshness import (
    ANY,
    ExactFreshness,
    Freshness,
    ProvenFreshness,
    ReadOptions,
    Uncached,
    heartbeat_seconds,
)

__all__ = [
    "ANY",
    "CacheCounts",
    "CachedKey",
    "ExactFreshness",
    "Freshness",
    "ProvenFreshness",
    "ReadOptions",
    "RecordCache",
    "Uncached",
    "heartbeat_seconds",
]
