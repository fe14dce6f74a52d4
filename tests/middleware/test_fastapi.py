"""FastAPI with a real authority: dependencies, middleware and both together."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Annotated, Any

import httpx
import pytest
from fastapi import APIRouter, Depends, FastAPI, WebSocket
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse

from keyauthority import AsyncClient, Client, RateLimit, Restrictions, SecretKey, Verdict
from keyauthority.middleware.asgi import App, KeyMiddleware, Message
from keyauthority.middleware.fastapi import RequireKey
from keyauthority.testing import Authority

Reader = Annotated[Verdict, Depends(RequireKey("orders:read"))]
Writer = Annotated[Verdict, Depends(RequireKey("orders:write"))]


@pytest.fixture
async def verifier(key_authority: Authority) -> AsyncIterator[AsyncClient]:
    """A client in the event loop of the test."""
    async with key_authority.async_client() as opened:
        yield opened


def shop(verifier: AsyncClient | None, **options: Any) -> FastAPI:
    """An application whose routes say which permissions they need."""
    app = FastAPI(**options)
    if verifier is not None:
        app.state.verifier = verifier

    @app.get("/orders/{number}")
    async def order(number: str, caller: Reader) -> dict[str, str]:
        return {"number": number, "project_id": caller.project_id}

    @app.post("/orders")
    async def create(order: dict[str, str], caller: Writer) -> None:
        raise AssertionError("no key of these tests may write")

    @app.websocket("/watch")
    async def watch(socket: WebSocket, caller: Reader) -> None:
        await socket.accept()
        await socket.send_text(caller.project_id)
        await socket.close()

    return app


@asynccontextmanager
async def browsing(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application in this process."""
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://shop") as browser:
        yield browser


def limited_key(client: Client, project_id: str, limit: int) -> dict[str, str]:
    """The header of a key that may be used so often a day."""
    key = client.create_key(
        project_id,
        mode="test",
        kind="restricted",
        permissions=["orders:read"],
        rate_limit=RateLimit(limit, timedelta(days=1)),
    ).secret_key
    return {"x-api-key": key.reveal()}


async def test_dependency_returns_the_verdict(
    verifier: AsyncClient, project_id: str, reader: SecretKey
) -> None:
    """Rejections have the form of all other guards."""
    headers = {"authorization": f"Bearer {reader.reveal()}"}
    async with browsing(shop(verifier)) as browser:
        known = await browser.get("/orders/7", headers=headers)
        unknown = await browser.get("/orders/7")
        forbidden = await browser.post("/orders", headers=headers, json={})
    assert {"number": "7", "project_id": project_id} == known.json()
    assert (401, "Bearer") == (unknown.status_code, unknown.headers["www-authenticate"])
    assert {"detail": {"error": "no_key"}} == unknown.json()
    assert (403, {"detail": {"error": "missing_permission"}}) == (
        forbidden.status_code,
        forbidden.json(),
    )


def both(verifier: AsyncClient) -> App:
    """Middleware before a dependency."""
    return KeyMiddleware(shop(verifier), verifier, {"* /*": ["orders:read"]})


def nested(verifier: AsyncClient) -> App:
    """Middleware in middleware, before a dependency."""
    return KeyMiddleware(both(verifier), verifier, {"* /*": []})


def routers(verifier: AsyncClient) -> App:
    """A dependency of the application, of a router and of a route."""
    app = FastAPI(dependencies=[Depends(RequireKey())])
    app.state.verifier = verifier
    router = APIRouter(dependencies=[Depends(RequireKey("orders:read"))])

    @router.get("/orders/{number}")
    async def order(number: str, caller: Reader) -> dict[str, str]:
        return {"project_id": caller.project_id}

    app.include_router(router)
    return app


def mounted(verifier: AsyncClient) -> App:
    """An application below another, both guarded."""
    app = FastAPI()
    app.state.verifier = verifier
    app.add_middleware(KeyMiddleware, verifier=verifier, rules={"* /shop/*": []})
    app.mount("/shop", both(verifier))
    return app


@pytest.mark.parametrize("build", [shop, both, nested, routers, mounted])
async def test_limit_is_spent_once_for_any_number_of_guards(
    verifier: AsyncClient, client: Client, project_id: str, build: Any
) -> None:
    """The headers count down by one and appear once in each answer."""
    headers, path = limited_key(client, project_id, 2), "/orders/7"
    async with browsing(build(verifier)) as browser:
        found = [
            await browser.get(f"/shop{path}" if build is mounted else path, headers=headers)
            for _ in range(3)
        ]
    assert [200, 200, 429] == [answer.status_code for answer in found]
    rests = [answer.headers.get_list("ratelimit") for answer in found]
    assert [['"key";r=1'], ['"key";r=0'], ['"key";r=0']] == [
        [rest.partition(";t=")[0] for rest in each] for each in rests
    ]
    assert ['"key";q=2'] * 3 == [answer.headers["ratelimit-policy"] for answer in found]
    assert 0 < int(found[2].headers["retry-after"]) <= 86_400


async def test_later_dependency_checks_its_own_permissions(
    verifier: AsyncClient, reader: SecretKey
) -> None:
    """A guard before it does not decide for it."""
    app = KeyMiddleware(shop(verifier), verifier, {"* /*": ["orders:read"]})
    async with browsing(app) as browser:
        answer = await browser.post("/orders", headers={"x-api-key": reader.reveal()}, json={})
    assert (403, {"detail": {"error": "missing_permission"}}) == (answer.status_code, answer.json())


async def test_custom_response_has_the_middlewares_headers(
    verifier: AsyncClient, client: Client, project_id: str
) -> None:
    """FastAPI adds a dependency's headers only to responses that it builds."""
    app = FastAPI()

    @app.get("/")
    async def home() -> JSONResponse:
        return JSONResponse({})

    guarded = KeyMiddleware(app, verifier, {"* /*": []})
    async with browsing(guarded) as browser:
        answer = await browser.get("/", headers=limited_key(client, project_id, 5))
    assert answer.headers["ratelimit"].startswith('"key";r=4')


async def test_middleware_verifies_before_the_body_is_read(
    verifier: AsyncClient,
) -> None:
    """FastAPI itself reads a JSON body before it calls a dependency."""
    async with browsing(shop(verifier)) as browser:
        alone = await browser.post("/orders", content="{bad", headers=JSON)
        form = await browser.post("/orders", content="[]", headers=JSON)
    async with browsing(KeyMiddleware(shop(verifier), verifier, {"* /*": []})) as browser:
        behind = await browser.post("/orders", content="{bad", headers=JSON)
    assert (422, 401, 401) == (alone.status_code, form.status_code, behind.status_code)


JSON = {"content-type": "application/json"}


async def test_verifier_can_be_passed_explicitly(
    verifier: AsyncClient, project_id: str, reader: SecretKey
) -> None:
    """A mounted application has no lifespan, and some servers run none."""

    async def opened() -> AsyncClient:
        return verifier

    sources = (verifier, lambda: verifier, opened)
    for source in sources:
        inner, app, guard = FastAPI(), FastAPI(), Depends(RequireKey(verifier=source))

        @inner.get("/who")
        async def who(caller: Verdict = guard) -> str:
            return caller.project_id

        app.mount("/inner", inner)
        async with browsing(app) as browser:
            answer = await browser.get("/inner/who", headers={"x-api-key": reader.reveal()})
        assert (200, project_id) == (answer.status_code, answer.json())


async def test_missing_verifier_is_named(verifier: AsyncClient) -> None:
    """In the dependency and in the middleware."""
    app = shop(None)
    for guarded in (app, KeyMiddleware(app, lambda: app.state.verifier, {"* /*": []})):
        with pytest.raises(RuntimeError, match="there is no verifier yet"):
            async with browsing(guarded) as browser:
                await browser.get("/orders/7")


async def test_websocket_is_accepted_with_a_key_only(
    verifier: AsyncClient, project_id: str, reader: SecretKey
) -> None:
    """1008 is a policy violation; a server sends 403 before acceptance."""
    app = shop(verifier)
    served = await connected(app, reader.reveal())
    assert project_id == served[1]["text"]
    refused = {"type": "websocket.close", "code": 1008, "reason": "no_key"}
    assert [refused] == await connected(app)
    assert [refused] == await connected(KeyMiddleware(app, verifier, {"* /*": []}))


async def connected(app: App, key: str = "") -> list[Message]:
    """The messages of an application to a client that connects."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    headers = [(b"x-api-key", key.encode())] if key else []
    scope = {"type": "websocket", "path": "/watch", "headers": headers, "query_string": b""}
    await app(scope, receive, send)
    return sent


def test_openapi_document_describes_the_key() -> None:
    """A key in its own header is another scheme."""
    app = shop(None)

    @app.get("/own")
    async def own(caller: Annotated[Verdict, Depends(RequireKey(header="X-Shop-Key"))]) -> None:
        raise AssertionError("only its document is read")

    document = app.openapi()
    schemes = document["components"]["securitySchemes"]
    assert ("http", "bearer") == (
        schemes["KeyAuthority"]["type"],
        schemes["KeyAuthority"]["scheme"],
    )
    assert {"type": "apiKey", "in": "header", "name": "x-shop-key"} == (
        schemes["KeyAuthority-x-shop-key"]
    )
    assert [{"KeyAuthority": []}] == document["paths"]["/orders"]["post"]["security"]
    assert [{"KeyAuthority-x-shop-key": []}] == document["paths"]["/own"]["get"]["security"]


async def test_dependency_options_take_effect(
    verifier: AsyncClient, client: Client, project_id: str
) -> None:
    """An own header, named proxies, a cost."""
    created = client.create_key(
        project_id,
        mode="test",
        kind="secret",
        restrictions=Restrictions(allowed_ips=("192.0.2.0/24",)),
        rate_limit=RateLimit(9, timedelta(days=1)),
    )
    app = FastAPI()
    guard = Depends(
        RequireKey(verifier=verifier, header="X-Shop-Key", trusted_proxies=["127.0.0.1"], cost=4)
    )

    @app.get("/")
    async def home(caller: Verdict = guard) -> None:
        return None

    headers = {"x-shop-key": created.secret_key.reveal(), "x-forwarded-for": "192.0.2.7"}
    async with browsing(app) as browser:
        found = [(await browser.get("/", headers=headers)).status_code for _ in range(3)]
    assert [200, 200, 429] == found
    for wrong in ("orders", "Orders:read"):
        with pytest.raises(ValueError, match="a permission of RequireKey"):
            RequireKey(wrong)


@pytest.mark.parametrize("with_option", [True, False])
async def test_cors_preflight_can_be_allowed(verifier: AsyncClient, with_option: bool) -> None:
    """By CORS middleware outside of the guard, or by the option."""
    cors: dict[str, Any] = {"allow_origins": ["https://page.example"], "allow_headers": ["*"]}
    asks = {"origin": "https://page.example", "access-control-request-method": "GET"}
    app = FastAPI()
    guarded: App
    if with_option:
        app.add_middleware(CORSMiddleware, **cors)
        guarded = KeyMiddleware(app, verifier, {"GET /": []}, allow_preflight=True)
    else:
        guarded = CORSMiddleware(KeyMiddleware(app, verifier, {"GET /": []}), **cors)
    async with browsing(guarded) as browser:
        asked = await browser.options("/", headers=asks)
        plain = await browser.options("/")
        refused = await browser.get("/", headers=asks)
    assert [200, 403, 401] == [answer.status_code for answer in (asked, plain, refused)]
    assert with_option is not ("access-control-allow-origin" in refused.headers)
