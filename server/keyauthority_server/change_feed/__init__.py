"""Follows the log of changes, once for all subscribers in this process.

`feed.Feed` reads new changes and delivers them; begin reading there. `ReplayBuffer`, one of the
subscribers, keeps the newest changes encoded for watchers. The package must not check a caller's
rights or open a stream.
"""

from keyauthority_server.change_feed.byte_budget import ByteBudget
from keyauthority_server.change_feed.encoding import (
    EncodedChange,
    encode_change,
    encode_key,
    encode_project,
)
from keyauthority_server.change_feed.feed import BEAT_SECONDS, Feed, Subscriber, following
from keyauthority_server.change_feed.replay_buffer import ReplayBuffer

__all__ = [
    "BEAT_SECONDS",
    "ByteBudget",
    "EncodedChange",
    "Feed",
    "ReplayBuffer",
    "Subscriber",
    "encode_change",
    "encode_key",
    "encode_project",
    "following",
]
