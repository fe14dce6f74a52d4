"""Watchers of a server's changes: an open stream, and the messages received."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc
import pytest

from keyauthority.v1 import key_authority_service_pb2 as pb
from tests.service.callers import CALL_SECONDS, Caller, Refusal, refusal

PATH: Final = "/keyauthority.v1.KeyAuthorityService/WatchChanges"

Update = pb.WatchChangesResponse


class Watch:
    """An open stream."""

    def __init__(self, caller: Caller, body: bytes) -> None:
        opened: Any = caller.channel.unary_stream(PATH, response_deserializer=Update.FromString)
        self.call = opened(body, metadata=caller.metadata, timeout=CALL_SECONDS)
        self.changes: list[pb.Change] = []
        """All that have come so far."""
        self.reached = 0
        """The revision of the last checkpoint."""

    def next(self) -> Update:
        """The next message."""
        update: Update = next(self.call)
        self.changes.extend(update.changes)
        if update.checkpoint:
            self.reached = update.revision
        return update

    def until(self, holds: Callable[[Update], bool]) -> Update:
        """Read up to the message of which it holds."""
        while not holds(update := self.next()):
            pass
        return update

    def checkpoint(self, revision: int = 0) -> Update:
        """Read up to a checkpoint that is not before a revision."""
        return self.until(lambda update: update.checkpoint and update.revision >= revision)

    def refused(self) -> Refusal:
        """Read until it fails; return how it did."""
        with pytest.raises(grpc.RpcError) as failed:
            self.until(lambda _: False)
        return refusal(failed.value)

    def types(self) -> list[str]:
        """The types of the changes, in the order received."""
        return [pb.ChangeType.Name(one.type).removeprefix("CHANGE_TYPE_") for one in self.changes]


@contextmanager
def watching(caller: Caller, **fields: Any) -> Iterator[Watch]:
    """Open a stream, and close it in the end."""
    watch = Watch(caller, pb.WatchChangesRequest(**fields).SerializeToString())
    try:
        yield watch
    finally:
        watch.call.cancel()


@contextmanager
def following(caller: Caller, **fields: Any) -> Iterator[Watch]:
    """Open a stream of changes from now on, and wait until it has begun."""
    with watching(caller, **fields) as watch:
        watch.checkpoint()
        yield watch
