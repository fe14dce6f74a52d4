# Generated from keyauthority/aio/watch.py by .ci/generate_sync.py: edit that file.
"""Calls of KeyAuthorityService: the watch."""

from __future__ import annotations

from keyauthority import convert
from keyauthority._requests import watch
from keyauthority.client.connection import Connection, Watch
from keyauthority.results import WatchUpdate


class WatchCalls(Connection):
    """Streams committed changes."""

    def watch_changes(
        self,
        project_id: str = "",
        *,
        from_revision: int | None = None,
        log_id: str = "",
        snapshot: bool = False,
        timeout: float | None = None,
    ) -> Watch[WatchUpdate]:
        """Stream changes after `from_revision` (default: now) as they are committed.

        `log_id` is the log that the revision belongs to; empty is not checked. With `snapshot` the
        stream begins with every record that the caller may see, as if created now; the snapshot is
        complete at the first checkpoint. An update arrives at least every 500 ms, with or without
        changes: a longer silence means a lost connection. After an update with `resync` the stream
        ends; open a new one with `snapshot`.

        Raises Unauthenticated or PermissionDenied when the caller loses the right to watch, and
        Unavailable when the server stops: resume from the last checkpoint. `timeout` limits the
        whole stream, in seconds; None means no limit. Raises NotFound for a project that does not
        exist or that the caller may not see, FailedPrecondition for a revision that the authority
        has not reached.
        """
        request = watch.watch_changes(
            project_id, from_revision=from_revision, log_id=log_id, snapshot=snapshot
        )
        return self._watch(
            self._stubs.keys.WatchChanges, request, convert.watch_update_from_proto, timeout
        )
