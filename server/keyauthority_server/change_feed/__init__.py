"""Follows the log of changes, once for all in this process that want to know of them.

`Feed` reads the log's end and tells its subscribers; `Recent`, one of them, keeps the newest
changes as watchers get them. It judges nobody, and knows no wire.
"""

from keyauthority_server.change_feed.byte_budget import ByteBudget
from keyauthority_server.change_feed.encoding import Packed, pack, pack_key, pack_project
from keyauthority_server.change_feed.feed import BEAT_SECONDS, Feed, Subscriber, following
from keyauthority_server.change_feed.replay_buffer import Recent

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
