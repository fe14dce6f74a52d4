"""Guards under every server: the right caller, one spend, the right path, in each cell.

A cell is a server, a place of the application, a guard and a kind of request.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import cache
from http.client import HTTPConnection
from typing import Any, Final, NamedTuple

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from keyauthority import Client, RateLimit
from keyauthority.testing import Authority
from tests.middleware.web_servers import PREFIX, SERVERS, WebServer, serving

ASGI: Final = [name for name, server in SERVERS.items() if server.is_asgi]
WSGI: Final = [name for name, server in SERVERS.items() if not server.is_asgi]
GUARDS: Final = ("middleware", "dependency", "both", "nested")
ASGI_CELLS: Final = [
    f"{place}-{guard}{lifespan}"
    for place in ("app", "mount", "router")
    for guard in GUARDS
    for lifespan in ("", "-off")
]
WSGI_CELLS: Final = [
    f"{place}-{guard}" for place in ("app", "mount") for guard in ("middleware", "nested")
]
WHOLE: Final = ("uvicorn", "gunicorn-threads")
FEW: Final = ("app-middleware", "mount-dependency", "mount-nested", "router-both", "app-nested-off")
"""Cells that every server is asked for in the short form, each place and guard once; `WHOLE` for
all. `make prove` adds the others."""
LIMIT: Final = 100_000
SHORT, FULL = 24, 10_008
AT_ONCE: Final = 12  # a multiple of two callers and a stranger
CONNECTION: Final = 504  # requests; some servers end a connection after 1,000


class Running(NamedTuple):
    """A server that runs."""

    server: WebServer
    url: str
    browser: httpx.Client
    prefix: str

    def path(self, cell: str, name: str) -> str:
        """A client's request."""
        below = "" if cell.startswith("app") else "/v1"
        return f"{self.prefix}{below}{name}"

    def get(self, cell: str, name: str, key: str = "") -> httpx.Response:
        """Ask as the owner of a key."""
        return self.browser.get(self.path(cell, name), headers=headers(cell, key))


def grouped(names: list[str], *, prove: bool) -> list[Any]:
    """Parameters that keep the tests of a server in one process of pytest."""
    return [
        pytest.param(
            (name, not prove),
            id=f"{name}-{'without' if prove else 'with'}-root-path",
            marks=[
                pytest.mark.xdist_group(f"web-{name}"),
                *([pytest.mark.prove] if prove else []),
            ],
        )
        for name in names
    ]


def each_cell(names: list[str], cells: list[str]) -> list[Any]:
    """Parameters that name a server and a cell."""
    return [
        pytest.param(
            *server.values,
            cell,
            id=f"{server.id}-{cell}",
            marks=[
                *server.marks,
                *([] if cell in FEW or server.values[0][0] in WHOLE else [pytest.mark.prove]),
            ],
        )
        for prove in (False, True)
        for server in grouped(names, prove=prove)
        for cell in cells
    ]


@pytest.fixture(scope="module")
def start(key_authority: Authority) -> Iterator[Callable[[str, bool], Running]]:
    """Starts each server once, with a root path or without; those that have none are skipped."""
    with contextlib.ExitStack() as opened:

        @cache
        def running(name: str, with_prefix: bool) -> Running:
            server = SERVERS[name]
            with_prefix = with_prefix and bool(server.prefix_flags)
            url = opened.enter_context(serving(name, key_authority, with_prefix=with_prefix))
            browser = opened.enter_context(httpx.Client(base_url=url, timeout=30))
            prefix = PREFIX if with_prefix and server.sends_prefix else ""
            return Running(server, url, browser, prefix)

        yield running


@pytest.fixture
def running(request: pytest.FixtureRequest, start: Callable[[str, bool], Running]) -> Running:
    """A server with a root path; `make prove` adds the one without, and those that have none."""
    return start(*request.param)


class LimitedKey(NamedTuple):
    """A key with a limit, which counts the units spent."""

    access_key: str
    secret_key: str


@pytest.fixture(scope="module")
def keys(key_authority: Authority) -> Iterator[list[LimitedKey]]:
    """Two keys with limits, of one project."""
    with key_authority.client() as client:
        yield [limited_key(client) for _ in range(2)]


def limited_key(client: Client, limit: int | None = LIMIT) -> LimitedKey:
    """A key with a limit that is not reached, or with none."""
    created = client.create_key(
        client.create_project("Shop").project_id,
        mode="test",
        kind="restricted",
        permissions=["orders:read"],
        rate_limit=None if limit is None else RateLimit(limit, timedelta(days=1)),
    )
    return LimitedKey(created.key.access_key, created.secret_key.reveal())


def headers(cell: str, key: str | None) -> dict[str, str]:
    """The headers of a request to the application of a cell."""
    return {"x-cell": cell} | ({"x-api-key": key} if key else {})


def check_requests(running: Running, cell: str, keys: list[LimitedKey], path: str) -> None:
    """Two callers on one connection, each draws one at a time, and strangers see nobody."""
    first, other = keys
    before = running.get(cell, "/who", first.secret_key).json()["remaining"]
    assert other.access_key == running.get(cell, "/who", other.secret_key).json()["access_key"]
    assert f"{first.access_key}\n" * 2 == running.get(cell, "/stream", first.secret_key).text
    last = running.get(cell, "/who", first.secret_key)
    rest = before - 2
    assert {"access_key": first.access_key, "remaining": rest, "path": path} == last.json()
    assert [f'"key";r={rest}'] == [
        text.partition(";t=")[0] for text in last.headers.get_list("ratelimit")
    ]
    if "nested" not in cell or not running.server.is_asgi:  # there the router has a guard too
        assert {"access_key": None} == {
            name: found
            for name, found in running.get(cell, "/open").json().items()
            if name == "access_key"
        }
    assert 401 == running.get(cell, "/who").status_code
    assert 401 == running.get(cell, "/stream", f"{first.secret_key[:-1]}_").status_code


@pytest.mark.parametrize(("running", "cell"), each_cell(ASGI, ASGI_CELLS), indirect=["running"])
def test_asgi_guards_know_the_caller_and_spend_once(
    running: Running, cell: str, keys: list[LimitedKey]
) -> None:
    """Over HTTP, streams and WebSocket, with and without a lifespan."""
    if not running.server.has_lifespan and not cell.endswith("-off"):
        assert 500 == running.get(cell, "/who", keys[0].secret_key).status_code
        pytest.skip("this server runs no lifespan: the verifier has to be given")
    check_requests(running, cell, keys, "/v1/who" if cell.startswith("router") else "/who")
    url = f"{running.url.replace('http', 'ws', 1)}{running.path(cell, '/watch')}"
    before = running.get(cell, "/who", keys[0].secret_key).json()["remaining"]
    with connect(url, additional_headers=headers(cell, keys[0].secret_key)) as socket:
        seen = json.loads(socket.recv())
    assert (keys[0].access_key, before - 1) == (seen["access_key"], seen["remaining"])
    with pytest.raises(InvalidStatus) as refused, connect(url, additional_headers={"x-cell": cell}):
        pass
    assert 403 == refused.value.response.status_code


@pytest.mark.parametrize(("running", "cell"), each_cell(WSGI, WSGI_CELLS), indirect=["running"])
def test_wsgi_guards_know_the_caller_and_spend_once(
    running: Running, cell: str, keys: list[LimitedKey]
) -> None:
    """Also below a mount and below SCRIPT_NAME."""
    check_requests(running, cell, keys, "/who")


async def mistaken(running: Running, cell: str, keys: list[LimitedKey], requests: int) -> int:
    """How many of so many requests were served as somebody else's: two callers and a stranger."""
    if not running.server.http2:
        return await asyncio.to_thread(mistaken_in_turn, running, cell, keys, requests)
    right = 0

    async def is_right(browser: httpx.AsyncClient, number: int) -> bool:
        path, key = asked(running, cell, keys, number)
        answer = await browser.get(f"{path}?meet", headers=headers(cell, key and key.secret_key))
        return is_own(key, answer.status_code, answer.text)

    for first in range(0, requests, CONNECTION):
        async with httpx.AsyncClient(
            base_url=running.url,
            http1=False,
            http2=True,
            limits=httpx.Limits(max_connections=1),
            timeout=60,
        ) as browser:
            for start in range(first, min(first + CONNECTION, requests), AT_ONCE):
                answers = [is_right(browser, start + number) for number in range(AT_ONCE)]
                right += sum(await asyncio.gather(*answers))
    return requests - right


def mistaken_in_turn(running: Running, cell: str, keys: list[LimitedKey], requests: int) -> int:
    """The same over HTTP/1.1, where the requests of a connection follow each other."""
    right = 0
    for first in range(0, requests, CONNECTION):
        connection = HTTPConnection(running.url.removeprefix("http://"), timeout=60)
        with contextlib.closing(connection):
            for number in range(first, min(first + CONNECTION, requests)):
                path, key = asked(running, cell, keys, number)
                connection.request("GET", path, headers=headers(cell, key and key.secret_key))
                answer = connection.getresponse()
                right += is_own(key, answer.status, answer.read().decode())
    return requests - right


def asked(
    running: Running, cell: str, keys: list[LimitedKey], number: int
) -> tuple[str, LimitedKey | None]:
    """The path and the key of a request: two callers and a stranger in turn."""
    key = [*keys, None][number % 3]
    return running.path(cell, "/open" if key is None else "/who"), key


def is_own(key: LimitedKey | None, status: int, body: str) -> bool:
    """Return True if an answer is for its caller; a stranger is refused or has no access key."""
    if key is None:
        return status == 401 or json.loads(body)["access_key"] is None
    return status == 200 and bool(json.loads(body)["access_key"] == key.access_key)


def interleaved_cell(running: Running, guard: str) -> str:
    """The application of a guard, without a lifespan; skips features that WSGI lacks."""
    if running.server.is_asgi:
        return f"app-{guard}-off"
    if guard not in ("middleware", "nested"):
        pytest.skip("a dependency is of FastAPI, which is ASGI")
    return f"app-{guard}"


@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("running", grouped([*ASGI, *WSGI], prove=False), indirect=True)
async def test_callers_on_one_connection_are_not_confused(
    running: Running, guard: str, keys: list[LimitedKey]
) -> None:
    """Neither with each other nor on an open route."""
    assert 0 == await mistaken(running, interleaved_cell(running, guard), keys, SHORT)


@pytest.mark.parametrize("running", grouped(["hypercorn-0.17"], prove=False), indirect=True)
async def test_caller_in_connection_state_is_confused(
    running: Running, keys: list[LimitedKey]
) -> None:
    """Control: Hypercorn 0.17 shares that state, and the tests above detect it."""
    assert await mistaken(running, "app-control-off", keys, SHORT) > 0


@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("guard", GUARDS)
@pytest.mark.parametrize("running", grouped([*ASGI, *WSGI], prove=True), indirect=True)
async def test_callers_on_one_connection_are_not_confused_in_10000_requests(
    running: Running, guard: str, key_authority: Authority
) -> None:
    """With keys that the verifier evaluates locally."""
    cell = interleaved_cell(running, guard)
    with key_authority.client() as client:
        keys = [limited_key(client, limit=None) for _ in range(2)]
    assert 0 == await mistaken(running, cell, keys, FULL)
