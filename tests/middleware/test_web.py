"""ASGI and WSGI applications with a real authority: equal rules and answers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults

import httpx
import pytest

from keyauthority import AsyncClient, Client, Restrictions, SecretKey
from keyauthority.middleware import asgi, wsgi
from keyauthority.middleware.admission import Permissions
from keyauthority.testing import Authority

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIEnvironment

RULES: dict[str, Permissions] = {
    "* /health": None,
    "GET /orders/*": ["orders:read"],
    "POST /orders": ["orders:write"],
}
CASES: list[tuple[str, str, bool, int]] = [
    ("GET", "/health", False, 200),
    ("GET", "/orders/1", True, 200),
    ("HEAD", "/orders/1", True, 200),
    ("GET", "/orders/1", False, 401),
    ("POST", "/orders", True, 403),
    ("GET", "/orders", True, 403),
    ("DELETE", "/orders/1", True, 403),
    ("GET", "/other", True, 403),
    ("GET", "/orders/../other", True, 403),
    ("get", "/health", False, 403),
    ("delete", "/orders/1", True, 403),
]


def headers(key: str | None) -> dict[str, str]:
    """A client's request."""
    return {} if key is None else {"authorization": f"Bearer {key}"}


async def echo(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
    """Answer whose call it is."""
    caller = scope.get("state", {}).get("caller")
    text = json.dumps({"project_id": caller.project_id if caller else None}).encode()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": text})


@pytest.mark.parametrize(("method", "path", "with_key", "status"), CASES)
async def test_asgi_applies_the_rules(
    key_authority: Authority,
    project_id: str,
    reader: SecretKey,
    method: str,
    path: str,
    with_key: bool,
    status: int,
) -> None:
    """The first matching rule decides, and an unmatched request is rejected."""
    async with key_authority.async_client() as verifier:
        app = asgi.KeyMiddleware(echo, verifier, RULES)
        code, body = await asked(app, method, path, reader.reveal() if with_key else None)
    assert status == code
    if path == "/orders/1" and status == 200:
        assert {"project_id": project_id} == body


async def asked(app: asgi.App, method: str, path: str, key: str | None) -> tuple[int, Any]:
    """Send one request to an application as a server does: the path is not made canonical."""
    sent: list[asgi.Message] = []

    async def receive() -> asgi.Message:
        return {"type": "http.request"}

    async def send(message: asgi.Message) -> None:
        sent.append(message)

    scope: asgi.Scope = {
        "type": "http",
        "method": method,
        "path": path,
        "headers": [(name.encode(), text.encode()) for name, text in headers(key).items()],
        "client": ("127.0.0.1", 4711),
    }
    await app(scope, receive, send)
    return sent[0]["status"], json.loads(sent[1]["body"] or "null")


@pytest.mark.parametrize(("method", "path", "with_key", "status"), CASES)
def test_wsgi_applies_the_rules(
    client: Client,
    project_id: str,
    reader: SecretKey,
    method: str,
    path: str,
    with_key: bool,
    status: int,
) -> None:
    """The same rules and answers."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        caller = environ.get(wsgi.CALLER)
        start_response("200 OK", [])
        return [json.dumps({"project_id": caller.project_id if caller else None}).encode()]

    guarded = wsgi.KeyMiddleware(app, client, RULES)
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path}
    if with_key:
        environ["HTTP_AUTHORIZATION"] = f"Bearer {reader.reveal()}"
    setup_testing_defaults(environ)
    statuses: list[str] = []
    body = b"".join(guarded(environ, answering(statuses)))
    assert [str(status)] == [text.partition(" ")[0] for text in statuses]
    if path == "/orders/1" and status == 200:
        assert {"project_id": project_id} == json.loads(body)


@pytest.mark.parametrize(("method", "told"), [("GET", b'{"error": "no_key"}'), ("HEAD", b"")])
def test_wsgi_matches_the_path_as_written(client: Client, method: str, told: bytes) -> None:
    """A non-ASCII rule matches; an answer to HEAD has no content."""

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        raise AssertionError("the first rule fits, and this was let through by the second")

    guarded = wsgi.KeyMiddleware(app, client, {"GET /gr\u00f6\u00dfe/*": ["a:b"], "* /*": None})
    environ: dict[str, Any] = {"REQUEST_METHOD": method}
    environ["PATH_INFO"] = "/gr\u00f6\u00dfe/1".encode().decode("latin-1")  # PEP 3333
    setup_testing_defaults(environ)
    statuses: list[str] = []
    assert told == b"".join(guarded(environ, answering(statuses)))
    assert ["401 Unauthorized"] == statuses


def answering(statuses: list[str]) -> StartResponse:
    """The start of an application's answer."""

    def start_response(
        status: str, headers: list[tuple[str, str]], exc_info: object = None, /
    ) -> Callable[[bytes], object]:
        statuses.append(status)
        return bytes.splitlines

    return start_response


async def test_address_restricted_key_works_through_trusted_proxies_only(
    key_authority: Authority, client: Client, project_id: str
) -> None:
    """A header that the client sends itself has no effect."""
    key = client.create_key(
        project_id,
        mode="test",
        kind="secret",
        restrictions=Restrictions(allowed_ips=("192.0.2.0/24",)),
    ).secret_key
    forged = headers(key.reveal()) | {"x-forwarded-for": "192.0.2.7"}
    statuses = []
    async with key_authority.async_client() as verifier:
        for proxies in (0, 1):
            app = asgi.KeyMiddleware(echo, verifier, RULES, trusted_proxies=proxies)
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://shop") as browser:
                statuses.append((await browser.get("/orders/1", headers=forged)).status_code)
    assert [403, 200] == statuses


async def test_unreachable_authority_is_unavailable(reader: SecretKey) -> None:
    """An unknown result is neither valid nor denied."""
    async with AsyncClient("127.0.0.1:1", timeout=0.5) as verifier:
        app = asgi.KeyMiddleware(echo, verifier, RULES)
        assert (503, {"error": "unavailable"}) == await asked(
            app, "GET", "/orders/1", reader.reveal()
        )


async def test_websocket_without_a_key_is_closed(key_authority: Authority) -> None:
    """It is rejected before the application sees it."""
    sent: list[asgi.Message] = []

    async def send(message: asgi.Message) -> None:
        sent.append(message)

    async def receive() -> asgi.Message:
        return {"type": "websocket.connect"}

    async with key_authority.async_client() as verifier:
        app = asgi.KeyMiddleware(echo, verifier, RULES)
        await app(
            {"type": "websocket", "path": "/orders/1", "headers": [], "client": None}, receive, send
        )
    assert ["websocket.close"] == [message["type"] for message in sent]
