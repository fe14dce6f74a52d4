"""Follows the log of changes, once for all in this process that want to know of them.

`Feed` reads the log's end and tells its subscribers; `Recent`, one of them, keeps the newest
changes as watchers get them. It judges nobody, and knows no wire.
"""

from keyauthority_server.feed.byte_budget import ByteBudget
from keyauthority_server.feed.packing import Packed, pack, pack_key, pack_project
from keyauthority_server.feed.recent import Recent
from keyauthority_server.feed.tailing import BEAT_SECONDS, Feed, Subscriber, following

__all__ = [
    "BEAT_SECONDS",
    "ByteBudget",
    "Feed",
    "Packed",
    "Recent",
    "Subscriber",
    "following",
    "pack",
    "pack_key",
    "pack_project",
]
