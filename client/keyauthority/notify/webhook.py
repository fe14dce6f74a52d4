"""One attempt to deliver an event: a signed POST request, and the meaning of its answer."""

from __future__ import annotations

import asyncio
import logging
import re
import ssl
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Final, NamedTuple, Self
from urllib.parse import urlsplit

import httpcore

from keyauthority import __version__
from keyauthority.clock import SystemClock
from keyauthority.notify.addresses import PublicBackend, RefusedAddress, resolve
from keyauthority.notify.events import Event
from keyauthority.notify.settings import CannotNotify, Settings
from keyauthority.notify.signing import SecretFile, sign

ATTEMPT_SECONDS: Final = 20.0  # from the look-up of the name to the end of the answer
CONNECT_SECONDS: Final = 5.0  # for each address of the name
ANSWER_MAX: Final = 64 * 1024  # bytes of an answer that are read, and dropped

_PORTS: Final = {"http": 80, "https": 443}
_URL: Final = re.compile(r"[!-~]+")  # ASCII without blanks and control characters
_FAILURES: Final = (
    *(httpcore.NetworkError, httpcore.ProtocolError, httpcore.TimeoutException),
    *(RefusedAddress, OSError, TimeoutError),
)
_log: Final = logging.getLogger("keyauthority.notify")


class Url(NamedTuple):
    """The address of the receiver."""

    text: str
    scheme: str
    host: str
    port: int
    authority: str
    """Host and port as in the URL."""


class Answer(NamedTuple):
    """The result of an attempt."""

    status: int
    """The status of the response; 0 if none arrived."""
    failure: str = ""
    """The reason of a failure; empty for a status 2xx."""
    retry_after: float | None = None
    """Seconds that the receiver asks to wait; None if it does not."""


class Webhook:
    """The receiver of events. Follows no redirect, uses no proxy, keeps no connection."""

    def __init__(self, settings: Settings) -> None:
        """Raises CannotNotify for a URL or a secret file that cannot be used."""
        self._url = parse_url(settings)
        self._allow_private = settings.allow_private
        self._secrets = SecretFile(settings.secret_file)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=ssl.create_default_context() if self._url.scheme == "https" else None,
            max_connections=None,  # the sender bounds them
            max_keepalive_connections=0,  # so that each attempt checks the address
            network_backend=PublicBackend(allow_private=settings.allow_private),
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._pool.aclose()

    async def check_address(self) -> None:
        """Raise CannotNotify if the receiver's address is refused now."""
        try:
            await resolve(self._url.host, self._url.port, allow_private=self._allow_private)
        except RefusedAddress as refused:
            raise CannotNotify(f"--webhook: {refused}; --allow-private permits it") from None
        except OSError as failed:
            _log.warning("%s cannot be resolved yet: %s", self._url.host, failed.strerror)

    async def send(self, event: Event) -> Answer:
        """Make one attempt. Never raises for anything that a receiver or a network can do."""
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                return await self._send(event)
        except TimeoutError:
            return Answer(0, f"no answer within {ATTEMPT_SECONDS:.0f} s")
        except _FAILURES as failed:
            return Answer(0, f"{type(failed).__name__}: {failed}")

    async def _send(self, event: Event) -> Answer:
        body = event.body.encode("ascii")
        async with self._pool.stream(
            "POST",
            self._url.text,
            headers=self._headers(event.id, body),
            content=body,
            extensions={"timeout": {"connect": CONNECT_SECONDS}},
        ) as response:
            answer = _read(response)
            await _drop_content(response)
            return answer

    def _headers(self, event_id: str, body: bytes) -> list[tuple[str, str]]:
        timestamp = int(SystemClock().now().timestamp())
        return [
            ("host", self._url.authority),
            ("content-type", "application/json"),
            ("user-agent", f"keyauthority-notify/{__version__}"),
            ("connection", "close"),
            ("webhook-id", event_id),
            ("webhook-timestamp", str(timestamp)),
            ("webhook-signature", sign(self._secrets.latest(), event_id, timestamp, body)),
        ]


def _read(response: httpcore.Response) -> Answer:
    if response.status // 100 == HTTPStatus.OK // 100:
        return Answer(response.status)
    retry_after: float | None = None
    for name, value in response.headers:
        if name.lower() == b"retry-after":
            retry_after = _seconds(value.decode("latin-1").strip())
    return Answer(response.status, f"status {response.status}", retry_after)


async def _drop_content(response: httpcore.Response) -> None:
    """Read a short answer to its end, since to reset the connection would disturb the receiver.

    The status counts, and a failure after it changes nothing.
    """
    size = 0
    try:
        async for chunk in response.aiter_stream():
            size += len(chunk)
            if size > ANSWER_MAX:
                return
    except _FAILURES:
        return


def _seconds(text: str) -> float | None:
    """Return the value of Retry-After, a number of seconds or a date; None for any other text."""
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        time = parsedate_to_datetime(text)
    except (OverflowError, ValueError):
        return None
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    now: datetime = SystemClock().now()
    return max((time - now).total_seconds(), 0.0)


def parse_url(settings: Settings) -> Url:
    """Return the parts of the URL. Raises CannotNotify for one that cannot be used."""
    text = settings.webhook
    try:
        parts = urlsplit(text)
        port = parts.port or _PORTS[parts.scheme]
        url = Url(text, parts.scheme, parts.hostname or "", port, parts.netloc)
        url.host.encode("idna")  # as the resolver does
        if not (url.host and url.scheme in _PORTS and _URL.fullmatch(text)):
            raise ValueError(text)
    except (KeyError, ValueError):
        raise CannotNotify("--webhook: not a URL such as https://example.org/webhooks") from None
    if parts.username is not None or parts.fragment:
        raise CannotNotify(
            "--webhook: the URL has a user name or a fragment, which are not sent: the receiver"
            " knows the sender by the signature"
        )
    if url.scheme == "http" and not (settings.allow_private or settings.allow_plaintext):
        raise CannotNotify(
            "--webhook: http:// would send events in plaintext: use https://, or --allow-private"
            " for a receiver in a private network"
        )
    return url
