"""The call that watches, awaited."""

from __future__ import annotations

from keyauthority import convert
from keyauthority._requests import watch
from keyauthority.aio.connection import AsyncConnection, AsyncWatch
from keyauthority.results import WatchUpdate


class AsyncWatchCalls(AsyncConnection):
    """Follows the log of all changes."""

    def watch_changes(
        self,
        project_id: str = "",
        *,
        from_revision: int | None = None,
        log_id: str = "",
        snapshot: bool = False,
        timeout: float | None = None,
    ) -> AsyncWatch[WatchUpdate]:
        """Return the changes behind a revision, as they are committed; None: from now on.

        The revision counts in the log `log_id`; an empty one is not checked. With `snapshot` comes
        first every record that you may see, as if it were created now; it is whole at the first
        checkpoint. An update comes at least each 500 ms, with changes or without: a watch that is
        silent for longer has lost its connection. After one that says `resync` there is no more:
        begin anew, with a snapshot.

        The watch ends with Unauthenticated or PermissionDenied when your right to it does, and with
        Unavailable when the server goes: go on from the last checkpoint. `timeout` is in seconds,
        for all of it; None means no end. NotFound for a project that is absent or not yours,
        FailedPrecondition for a revision that the authority has not come to.
        """
        request = watch.watch_changes(
            project_id, from_revision=from_revision, log_id=log_id, snapshot=snapshot
        )
        return self._watch(
            self._keys.WatchChanges, request, convert.watch_update_from_proto, timeout
        )
