"""The outermost layer: allowed hosts, the size of bodies, and the headers of every answer."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_MAX: Final = 1024 * 1024  # bytes of a form; the largest list of restrictions has 256 KiB

_HEADERS: Final = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "form-action 'self'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class BodyTooLarge(Exception):
    """The body of a request exceeds `BODY_MAX`."""


class Guard:
    """Answers requests for other hosts with 421, and adds the security headers to all answers."""

    def __init__(self, app: ASGIApp, hosts: Hosts) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(_HEADERS)
                headers.setdefault("cache-control", "no-store")
            await send(message)

        hosts = Headers(scope=scope).getlist("host")
        if len(hosts) != 1 or not self._hosts.allow(hosts[0]):
            refused = PlainTextResponse(f"Open this console as {self._hosts.url}\n", 421)
            await refused(scope, receive, send_with_headers)
            return
        read = 0

        async def receive_bounded() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > BODY_MAX:
                raise BodyTooLarge
            return message

        await self._app(scope, receive_bounded, send_with_headers)


class Hosts:
    """The values of the Host header that the console answers."""

    def __init__(self, url: str, names: Collection[str], port: int, default_port: int) -> None:
        self.url = url
        self._names = frozenset(name.lower() for name in names)
        self._ports = {f":{port}"} | ({""} if port == default_port else set())

    def allow(self, host: str) -> bool:
        """Return True for one of the names with the port; `*.` stands for one label."""
        name, port = _split(host.lower())
        if port not in self._ports:
            return False
        label, _, parent = name.partition(".")
        return name in self._names or (label != "" and f"*.{parent}" in self._names)


def _split(host: str) -> tuple[str, str]:
    """Return the name and `:port`; an IPv6 address has brackets."""
    name, colon, port = host.rpartition(":")
    return (name, f":{port}") if colon and not port.endswith("]") else (host, "")
