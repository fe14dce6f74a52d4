"""Sessions of the console: who has signed in, one-time links, secrets that were shown.

All of it lives in the memory of this process; a restart ends every session. An operator key is
held only by the client of its session.
"""

from __future__ import annotations

import hmac
import secrets
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from keyauthority import clock
from keyauthority.aio import AsyncClient

IDLE_SECONDS: Final = 30 * 60.0
LIFE_SECONDS: Final = 12 * 3600.0
LINK_SECONDS: Final = 10 * 60.0
REPLAY_SECONDS: Final = 24 * 3600.0  # the authority forgets a request_id after a day
SESSIONS_MAX: Final = 1000  # the session that was idle longest ends for a new one
SHOWN_MAX: Final = 100_000

_TOKEN_BYTES: Final = 32


@dataclass(eq=False)
class Session:
    """A person who has signed in, and the client that holds their operator key."""

    id: str = field(repr=False)
    authority: AsyncClient
    operator: str
    """The access key of the operator key, or the name in the client certificate."""
    started: float
    used: float
    message: str = ""
    """The result of the last action, shown once by the next page."""

    def take_message(self) -> str:
        """Return the message and forget it."""
        message, self.message = self.message, ""
        return message


@dataclass
class _Link:
    """A one-time link."""

    token: str
    end: float
    was_used: bool = False


class Sessions:
    """The sessions of this process. `connect` makes the client of an operator key."""

    def __init__(
        self,
        connect: Callable[[str | None], AsyncClient],
        monotonic: Callable[[], float] = clock.monotonic,
    ) -> None:
        self._connect = connect
        self._now = monotonic
        self._sessions: OrderedDict[str, Session] = OrderedDict()  # the last used at the end
        self._csrf_key = secrets.token_bytes(_TOKEN_BYTES)
        self._link = _Link("", 0.0, was_used=True)

    def csrf_token(self, session_id: str) -> str:
        """Return the form token of a session, or of the cookie of a visitor without one."""
        return hmac.digest(self._csrf_key, session_id.encode(), "sha256").hex()

    def is_csrf_token(self, session_id: str, token: str) -> bool:
        """Return True for the form token of this session."""
        return hmac.compare_digest(self.csrf_token(session_id).encode(), token.encode())

    def client(self, operator_key: str | None) -> AsyncClient:
        """Return a new client for an operator key; the caller closes it or starts a session."""
        return self._connect(operator_key)

    async def start(self, authority: AsyncClient, operator: str) -> Session:
        """Start a session with this client."""
        await self._purge()
        if len(self._sessions) >= SESSIONS_MAX:
            await self.end(next(iter(self._sessions.values())))
        now = self._now()
        session = Session(new_token(), authority, operator, now, now)
        self._sessions[session.id] = session
        return session

    async def find(self, session_id: str, *, touch: bool = True) -> Session | None:
        """Return the live session of an id. With `touch` its idle time starts again."""
        await self._purge()
        session = self._sessions.get(session_id)
        if session is not None and touch:
            session.used = self._now()
            self._sessions.move_to_end(session_id)
        return session

    def is_live(self, session: Session) -> bool:
        """Return True until the session ends."""
        return session.id in self._sessions and not self._has_expired(session)

    async def end(self, session: Session) -> None:
        """End a session and close its connection."""
        if self._sessions.pop(session.id, None) is not None:
            await session.authority.close()

    async def close(self) -> None:
        """End all sessions."""
        for session in list(self._sessions.values()):
            await self.end(session)

    def new_link_token(self) -> str:
        """Return the token of a new sign-in link; earlier links end."""
        self._link = _Link(new_token(), self._now() + LINK_SECONDS)
        return self._link.token

    def use_link(self, token: str) -> bool:
        """Return True once for the token of the link, until it expires."""
        link = self._link
        if not hmac.compare_digest(link.token.encode(), token.encode()):
            return False
        is_open = not link.was_used and self._now() < link.end
        link.was_used = True
        return is_open

    def reopen_link(self) -> None:
        """Let the link that was used last be used again: the authority could not be asked."""
        self._link.was_used = False

    def _has_expired(self, session: Session) -> bool:
        now = self._now()
        return now - session.used >= IDLE_SECONDS or now - session.started >= LIFE_SECONDS

    async def _purge(self) -> None:
        for session in list(filter(self._has_expired, self._sessions.values())):
            await self.end(session)


class ShownSecrets:
    """Requests whose secret reached a browser; it is not shown again."""

    def __init__(self, monotonic: Callable[[], float] = clock.monotonic) -> None:
        self._now = monotonic
        self._marks: OrderedDict[str, str] = OrderedDict()
        self._shown: OrderedDict[str, float] = OrderedDict()

    def new_mark(self, request_id: str) -> str:
        """Return a token whose use marks the secret of this request as shown."""
        mark = new_token()
        self._marks[mark] = request_id
        if len(self._marks) > SHOWN_MAX:
            self._marks.popitem(last=False)
        return mark

    def use_mark(self, mark: str) -> None:
        """Mark the secret of the request as shown."""
        request_id = self._marks.pop(mark, None)
        if request_id is None:
            return
        now = self._now()
        self._shown[request_id] = now
        while len(self._shown) > SHOWN_MAX or now - next(iter(self._shown.values())) > (
            REPLAY_SECONDS
        ):
            self._shown.popitem(last=False)

    def was_shown(self, request_id: str) -> bool:
        """Return True if the secret of this request was shown."""
        return request_id in self._shown


def new_token() -> str:
    """Return a token that cannot be guessed."""
    return secrets.token_urlsafe(_TOKEN_BYTES)


def new_request_id() -> str:
    """Return the id of a new request that creates something."""
    return str(uuid.uuid4())
