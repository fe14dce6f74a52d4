"""Protected services behind nginx, configured as the page describes it."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, Final, NamedTuple

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from keyauthority import Client, RateLimit, Restrictions
from keyauthority.middleware.grpc import KeyInterceptor, caller
from keyauthority.testing import Authority
from tests.contract.documents import ROOT, blocks
from tests.middleware.proxied import PROXY
from tests.middleware.web_servers import serving
from tests.nginx import ADDRESS, needs_nginx, nginx
from tests.ports import free_port

pytestmark = needs_nginx

PAGE: Final = ROOT / "docs" / "run-a-protected-service.md"
APPS: Final = {
    "uvicorn": "tests.middleware.proxied:fastapi_app",
    "gunicorn-threads": "tests.middleware.proxied:flask_app()",
}
HERE, ELSEWHERE = "127.0.0.1", "127.0.0.2"
"""Addresses of clients."""


@contextlib.contextmanager
def behind_nginx(kind: str, upstream: str) -> Iterator[str]:
    """Run nginx with the page's example for `proxy_pass` or `grpc_pass`; give its address."""
    (text,) = [block.text for block in blocks(PAGE) if f" {kind}_pass " in block.text]
    port = free_port(ADDRESS)
    text = re.sub(r"listen \d+", f"listen {ADDRESS}:{port}", text)
    text = re.sub(r"127\.0\.0\.1:\d+;", f"{upstream};", text)
    with nginx(text.replace("location / {", f"location / {{ {kind}_bind {PROXY};"), port):
        yield f"{ADDRESS}:{port}"


class Service(NamedTuple):
    """A service and the nginx in front of it."""

    proxied: str
    direct: str

    def get(self, path: str, key: str = "", at: str = HERE, **headers: str) -> httpx.Response:
        """Ask nginx, from an address."""
        return get(self.proxied + path, key, at, **headers)


def get(url: str, key: str = "", at: str = HERE, **headers: str) -> httpx.Response:
    """Ask from an address; the names of headers have `_` for `-`."""
    sent = {name.replace("_", "-"): text for name, text in headers.items()}
    if key:
        sent["authorization"] = f"Bearer {key}"
    transport = httpx.HTTPTransport(verify=False, local_address=at)
    with httpx.Client(transport=transport, timeout=60) as browser:
        return browser.get(url, headers=sent)


@pytest.fixture(scope="module", params=APPS)
def service(request: pytest.FixtureRequest, key_authority: Authority) -> Iterator[Service]:
    """A service of each kind, which trusts nginx's address only."""
    with (
        serving(request.param, key_authority, app=APPS[request.param]) as url,
        behind_nginx("proxy", url.removeprefix("http://")) as address,
    ):
        yield Service(f"http://{address}", url)


@pytest.fixture
def make_key(client: Client, project_id: str) -> Callable[..., tuple[str, str]]:
    """Makes a key that may read orders, and gives its access key and secret."""

    def make(**fields: Any) -> tuple[str, str]:
        created = client.create_key(
            project_id, mode="test", kind="restricted", permissions=["orders:read"], **fields
        )
        return created.key.access_key, created.secret_key.reveal()

    return make


MakeKey = Callable[..., tuple[str, str]]


def test_caller_behind_nginx_is_known(service: Service, make_key: MakeKey) -> None:
    """By each header that carries a key; a refusal arrives as the service sent it."""
    access_key, secret = make_key()
    with httpx.Client(base_url=service.proxied, timeout=60) as browser:
        answers = [
            browser.get("/orders", headers={"authorization": f"Bearer {secret}"}),
            browser.get("/orders", auth=(secret, "")),
            browser.get("/orders", headers={"x-api-key": secret}),
            browser.get("/orders", headers={"x-auth-token": secret}),
        ]
        refused = browser.get("/orders", headers={"x-api-key": f"{secret[:-1]}_"})
        opened = browser.get("/health")
    assert [{"access_key": access_key}] * 4 == [answer.json() for answer in answers]
    assert (401, {"error": "malformed"}) == (refused.status_code, refused.json())
    assert "Bearer" == refused.headers["www-authenticate"]
    assert {"healthy": True} == opened.json()


def test_address_behind_nginx_is_the_clients(service: Service, make_key: MakeKey) -> None:
    """A forged header changes nothing, sent to nginx or past it."""
    access_key, secret = make_key(restrictions=Restrictions(allowed_ips=(HERE,)))
    refusal = (403, {"error": "ip_not_allowed"})
    allowed = service.get("/orders", secret)
    denied = [
        service.get("/orders", secret, ELSEWHERE),
        service.get("/orders", secret, ELSEWHERE, x_forwarded_for=HERE),
        service.get("/orders", secret, ELSEWHERE, x_forwarded_for=f"{HERE}, {PROXY}"),
        get(f"{service.direct}/orders", secret, ELSEWHERE, x_forwarded_for=HERE),
    ]
    assert (200, {"access_key": access_key}) == (allowed.status_code, allowed.json())
    assert [refusal] * 4 == [(answer.status_code, answer.json()) for answer in denied]


def test_limits_behind_nginx_are_spent_once(service: Service, make_key: MakeKey) -> None:
    """Their headers arrive, also on the refusal."""
    _, secret = make_key(rate_limit=RateLimit(2, timedelta(days=1)))
    answers = [service.get("/orders", secret) for _ in range(3)]
    assert [200, 200, 429] == [answer.status_code for answer in answers]
    assert ['"key";r=1', '"key";r=0', '"key";r=0'] == [
        answer.headers["ratelimit"].partition(";t=")[0] for answer in answers
    ]
    assert int(answers[2].headers["retry-after"]) > 0


def test_callers_on_kept_connections_are_not_confused(service: Service, make_key: MakeKey) -> None:
    """The requests of several clients come over the same connections."""
    keys = [make_key() for _ in range(2)]

    def seen(number: int) -> Any:
        return service.get("/orders", ([secret for _, secret in keys] + [""])[number % 3]).json()

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(seen, range(60)))
    right = [{"access_key": access_key} for access_key, _ in keys] + [{"error": "no_key"}]
    assert right * 20 == answers


@pytest.mark.parametrize(
    "path",
    [
        "//orders",
        "/orders/",
        "/Orders",
        "/%6frders",
        "/%256frders",
        "/orders;x=1",
        "/public/../orders",
        "/public/%2e%2e/orders",
        "/public/..%2forders",
        "/public/..%5corders",
        "/public/..;/orders",
        "/health/../orders",
        "/./orders",
    ],
)
def test_spelling_of_a_path_opens_nothing_behind_nginx(service: Service, path: str) -> None:
    """The two may read it differently."""
    connection = http.client.HTTPConnection(service.proxied.removeprefix("http://"))
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status in (400, 401, 403, 404)
        assert b"access_key" not in answer.read()


def test_client_chooses_no_mount_point_behind_nginx(service: Service) -> None:
    """Some servers would read it from these headers."""
    for name in ("SCRIPT_NAME", "Script-Name", "PATH_INFO", "Daphne-Root-Path"):
        answer = service.get("/orders", **{name: "/orders"})
        assert (401, {"error": "no_key"}) == (answer.status_code, answer.json())


@pytest.mark.parametrize("service", ["uvicorn"], indirect=True)
def test_websocket_behind_nginx_is_guarded(service: Service, make_key: MakeKey) -> None:
    """Its upgrade is passed on with the key."""
    access_key, secret = make_key()
    url = f"{service.proxied.replace('http', 'ws', 1)}/watch"
    with connect(url, additional_headers={"x-api-key": secret}) as socket:
        assert {"access_key": access_key} == json.loads(socket.recv())
    with pytest.raises(InvalidStatus) as refused, connect(url):
        pass
    assert 403 == refused.value.response.status_code


class _Orders(health_pb2_grpc.HealthServicer):
    def Check(  # noqa: N802 - the name is the proto's
        self, request: Any, context: Any
    ) -> health_pb2.HealthCheckResponse:
        context.set_trailing_metadata((("caller", caller().access_key),))
        return health_pb2.HealthCheckResponse()


@pytest.fixture
def grpc_address(client: Client) -> Iterator[str]:
    """The address of nginx in front of a gRPC service."""
    interceptor = KeyInterceptor(
        client, {"/grpc.health.v1.Health/Check": ["orders:read"]}, trusted_proxies=[PROXY]
    )
    server = grpc.server(ThreadPoolExecutor(2), interceptors=[interceptor])
    health_pb2_grpc.add_HealthServicer_to_server(_Orders(), server)
    port = server.add_insecure_port(f"{HERE}:0")
    server.start()
    with behind_nginx("grpc", f"{HERE}:{port}") as address:
        yield address
    server.stop(None).wait()


def test_grpc_caller_behind_nginx_is_known(grpc_address: str, make_key: MakeKey) -> None:
    """With the client's address, which no metadata of the client changes."""
    access_key, secret = make_key(restrictions=Restrictions(allowed_ips=(HERE,)))
    _, elsewhere = make_key(restrictions=Restrictions(allowed_ips=(ELSEWHERE, PROXY)))
    _, limited = make_key(rate_limit=RateLimit(0, timedelta(days=1)))
    with grpc.insecure_channel(grpc_address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)  # typed for grpc.aio only

        def outcome(*metadata: tuple[str, str]) -> Any:
            try:
                _, call = stub.Check.with_call(
                    health_pb2.HealthCheckRequest(), metadata=metadata, timeout=10
                )
            except grpc.RpcError as refused:
                failed: Any = refused
                return failed.code().name, failed.details()
            return dict(call.trailing_metadata())["caller"]

        assert access_key == outcome(("x-api-key", secret))
        assert ("UNAUTHENTICATED", "no_key") == outcome()
        assert ("PERMISSION_DENIED", "ip_not_allowed") == outcome(("x-api-key", elsewhere))
        assert ("PERMISSION_DENIED", "ip_not_allowed") == outcome(
            ("x-api-key", elsewhere), ("x-forwarded-for", ELSEWHERE)
        )
        assert ("RESOURCE_EXHAUSTED", "rate_limited") == outcome(("x-api-key", limited))
