"""The stream of WatchChanges: messages concatenated from changes encoded before."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from typing import Final

from keyauthority import convert
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority_server.services import Authenticate, Authority, Principal, Update

BYTES_MAX: Final = 256 * 1024  # of changes in a message, unless a single change has more


class WatchServicer:
    """The streaming method of KeyAuthorityService."""

    def __init__(self, authority: Authority) -> None:
        self._log_id = authority.log_id
        self._watch = authority.watch
        self.end = authority.watch.end

    async def watch_changes(
        self, caller: Principal, authenticate: Authenticate, request: pb.WatchChangesRequest
    ) -> AsyncGenerator[bytes]:
        """See the proto."""
        query = convert.watch_query_from_proto(request)
        async with aclosing(self._watch.watch(caller, authenticate, query)) as updates:
            async for update in updates:
                for message in self._messages(update):
                    yield message

    def _messages(self, update: Update) -> Iterator[bytes]:
        """Yield the update in messages that clients accept; only the last is a checkpoint."""
        bodies: list[bytes] = []
        length, revision = 0, update.revision
        for change in update.changes:
            if bodies and length + len(change.body) > BYTES_MAX:
                partial = update._replace(revision=revision)
                yield b"".join(bodies) + self._trailer(partial, last=False)
                bodies, length = [], 0
            bodies.append(change.body)
            length += len(change.body)
            revision = change.revision
        yield b"".join(bodies) + self._trailer(update, last=True)

    def _trailer(self, update: Update, *, last: bool) -> bytes:
        """Return the fields after the changes; concatenated fields parse as one message."""
        return pb.WatchChangesResponse(
            revision=update.revision,
            log_id=self._log_id,
            checkpoint=update.checkpoint and last,
            resync=update.resync,
            server_time=convert.timestamp(update.server_time),
            lag=convert.duration(update.lag),
        ).SerializeToString()
