"""Changes as server-sent events, by which pages renew their tables."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from keyauthority.aio import AsyncWatch
from keyauthority.console.sessions import Session, Sessions
from keyauthority.errors import KeyAuthorityError, Unavailable
from keyauthority.results import WatchUpdate

Stopping = Callable[[], bool]

_RETRY: Final = b"retry: 3000\n\n"  # milliseconds after which a browser connects again
_HEARTBEATS: Final = 30  # messages of the watch, half a second apart, for one comment line
_NONE: Final = 204  # a browser does not connect again


async def stream(
    request: Request, session: Session, sessions: Sessions, stopping: Stopping
) -> Response:
    """Return the changes of a project, or of all, as events; no content if they are not allowed."""
    project_id = request.query_params.get("project_id", "")
    watch = session.authority.watch_changes(project_id)
    try:
        await anext(watch)  # a heartbeat, or the refusal
    except Unavailable:
        return StreamingResponse(iter([_RETRY]), media_type="text/event-stream")
    except KeyAuthorityError:
        await watch.close()
        return Response(status_code=_NONE)
    return StreamingResponse(
        _events(watch, lambda: stopping() or not sessions.is_live(session)),
        media_type="text/event-stream",
    )


async def _events(watch: AsyncWatch[WatchUpdate], has_ended: Stopping) -> AsyncIterator[bytes]:
    async with watch:
        yield _RETRY
        silent = 0
        try:
            async for update in watch:
                silent += 1
                if has_ended():
                    return
                if update.changes or update.resync:
                    yield b"event: change\ndata: %d\n\n" % update.revision
                elif silent % _HEARTBEATS == 0:
                    yield b":\n\n"
        except KeyAuthorityError:
            return  # the browser connects again, and is refused then if the right has ended
