"""Answers of ASGI applications, and the page of metrics as an application of its own."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from http import HTTPStatus
from typing import Any, Final, NamedTuple

from keyauthority.endpoint import exposition

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = Sequence[tuple[str, str]]

JSON: Final = ("content-type", "application/json")

_BODILESS: Final = (b"", b"0")


class Answer(NamedTuple):
    """Status, headers and body."""

    status: int
    headers: Headers
    body: bytes


def error(status: int, word: str) -> Answer:
    """Return an answer with a word in JSON."""
    return Answer(status, [JSON], json.dumps({"error": word}).encode("ascii"))


NOT_FOUND: Final = error(HTTPStatus.NOT_FOUND, "not_found")


def metrics(text: str) -> Answer:
    """Return the page of metrics."""
    content_type = ("content-type", exposition.CONTENT_TYPE)
    return Answer(HTTPStatus.OK, [content_type], text.encode("ascii"))


async def send_answer(answer: Answer, scope: Scope, send: Send) -> None:
    """Answer a request whose body is not read."""
    headers = answer.headers
    if _has_body(scope):
        headers = [*headers, ("connection", "close")]
    described = [*headers, ("content-length", str(len(answer.body)))]
    await send(
        {
            "type": "http.response.start",
            "status": answer.status,
            "headers": [(name.encode("ascii"), text.encode("ascii")) for name, text in described],
        }
    )
    content = b"" if scope["method"] == "HEAD" else answer.body
    await send({"type": "http.response.body", "body": content})


class MetricsPage:
    """An application that serves `/metrics`, for every method alike, and nothing else."""

    def __init__(self, text: Callable[[], str]) -> None:
        """`text` returns all metrics, in ASCII."""
        self._text = text

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        found = scope["path"] == "/metrics"
        await send_answer(metrics(self._text()) if found else NOT_FOUND, scope, send)


def _has_body(scope: Scope) -> bool:
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and text not in _BODILESS)
        for name, text in scope["headers"]
    )
