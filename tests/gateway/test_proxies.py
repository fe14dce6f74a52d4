"""Real proxies with the configurations of the examples, in front of a service."""

from __future__ import annotations

import posixpath
import re
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import httpx
import pytest
import yaml

from keyauthority import Client
from keyauthority.gateway.identity import NAMES
from tests.gateway.browser import http
from tests.gateway.conftest import Keys, limited_key, one_sidecar
from tests.gateway.processes import Gateway, gateway
from tests.gateway.proxies import PROGRAMS, Ends, proxy
from tests.gateway.test_identity import FORGED, spellings
from tests.gateway.upstream import upstream
from tests.ports import free_port
from tests.service.forkserver import shared
from tests.service.processes import wait_until

Headers = Sequence[tuple[str, str]]

JWT = "eyJhbGciOiJIUzI1NiJ9.e30.c2ln"
CREDENTIALS = ("authorization", "x-api-key", "x-auth-token")
AT_ONCE = 40  # forged headers in a request; Envoy takes 100 headers


@pytest.fixture(scope="session")
def service() -> Iterator[str]:
    """The address of the service behind the proxies."""
    with upstream() as port:
        yield f"127.0.0.1:{port}"


@pytest.fixture(scope="session", params=PROGRAMS)
def url(
    request: pytest.FixtureRequest,
    sidecar: Gateway,
    service: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """The URL of each proxy in turn."""
    folder = tmp_path_factory.mktemp(request.param)
    ends = Ends(sidecar.grpc, sidecar.http, service)
    with proxy(request.param, folder, ends) as address:
        yield address


def received(url: str, headers: Headers, method: str = "GET") -> dict[str, list[str]]:
    """Send a request that is admitted; return the headers that the service received."""
    response = http.request(method, url, headers=list(headers))
    assert 200 == response.status_code, response.text
    found: dict[str, list[str]] = {}
    for line in response.json()[1:]:
        name, _, text = line.partition(":")
        found.setdefault(name.lower(), []).append(text.strip())
    return found


def denial(url: str, *headers: tuple[str, str], method: str = "GET") -> tuple[int, str]:
    """Send a request that is denied; return its status and word."""
    response = http.request(method, url, headers=list(headers))
    assert "application/json" == response.headers["content-type"]
    return response.status_code, response.json()["error"]


@one_sidecar
def test_admitted_request_carries_the_identity_and_no_credential(url: str, keys: Keys) -> None:
    """For each way to present the key; the service cannot use it, nor log it."""
    for name, text in [
        ("Authorization", "Bearer " + keys.reader),
        ("X-API-Key", keys.reader),
        ("x-auth-token", keys.reader),
    ]:
        headers = received(f"{url}/orders", [(name, text)])
        identity = [headers[name] for name in NAMES]
        assert [["live"], ["restricted"], ["orders:read"]] == identity[2:5]
        assert [keys.project_id] == identity[1]
        assert not {*CREDENTIALS}.intersection(headers)
    secret = received(f"{url}/orders", [("X-API-Key", keys.secret)], "POST")
    assert ([""], ["secret"]) == (
        secret.get("x-keyauthority-permissions", [""]),
        secret["x-keyauthority-kind"],
    )


@one_sidecar
def test_key_with_the_most_grants_is_admitted(url: str, client: Client, keys: Keys) -> None:
    """Its header of 50 KB arrives whole."""
    grants = [f"{'r' * 506}{number:02}:get" for number in range(99)]
    fields: Any = {"mode": "live", "kind": "restricted", "permissions": [*grants, "orders:read"]}
    created = client.create_key(keys.project_id, **fields)
    headers = received(f"{url}/orders", [("X-API-Key", created.secret_key.reveal())])
    assert {*grants, "orders:read"} == {*headers["x-keyauthority-permissions"][0].split(",")}


@one_sidecar
def test_each_denial_reaches_the_client(url: str, client: Client, keys: Keys) -> None:
    """With its status and word, although a proxy may turn a status into another."""
    key = ("X-API-Key", "" + keys.reader)
    assert (401, "no_key") == denial(f"{url}/orders")
    assert (401, "malformed") == denial(f"{url}/orders", ("X-API-Key", "x"))
    assert (401, "revoked") == denial(f"{url}/orders", ("X-API-Key", "" + keys.revoked))
    assert (403, "missing_permission") == denial(f"{url}/orders", key, method="POST")
    assert 404 == http.get(f"{url}/other", headers=[key]).status_code
    several = denial(f"{url}/orders", key, ("X-API-Key", "" + keys.secret))
    assert several in [(401, "several_keys"), (400, "")]
    limited = ("X-API-Key", "" + limited_key(client, keys.project_id))
    statuses = [http.get(f"{url}/orders", headers=[limited]).status_code for _ in range(2)]
    assert [200, 200] == statuses
    response = http.get(f"{url}/orders", headers=[limited])
    assert (429, {"error": "rate_limited"}) == (response.status_code, response.json())
    assert 0 < int(response.headers["retry-after"]) <= 3600


@one_sidecar
def test_forged_identity_never_reaches_the_service(url: str, keys: Keys) -> None:
    """In any spelling, doubled, joined, in capitals, or with the gateway's own removed."""
    send_forged(url, keys)


@one_sidecar
def test_gateway_alone_removes_a_forged_identity_behind_envoy(
    sidecar: Gateway, service: str, keys: Keys, tmp_path: Path
) -> None:
    """Without the filter of the example that removes it on all routes."""

    def without_filter(text: str) -> str:
        config = yaml.safe_load(text)
        filters = config["static_resources"]["listeners"][0]["filter_chains"][0]["filters"]
        chain = filters[0]["typed_config"]["http_filters"]
        assert "envoy.filters.http.header_mutation" == chain.pop(0)["name"]
        return str(yaml.safe_dump(config))

    ends = Ends(sidecar.grpc, sidecar.http, service)
    with proxy("envoy", tmp_path, ends, without_filter) as url:
        send_forged(url, keys)


@one_sidecar
def test_forged_trailer_never_reaches_the_service(url: str, keys: Keys) -> None:
    """A service may take a trailer for a header."""
    address = url.removeprefix("http://")
    names = ", ".join(NAMES)
    trailers = "".join(f"{name}: forged\r\n" for name in NAMES)
    answer = _exchange(
        address,
        f"POST /orders HTTP/1.1\r\nhost: {address}\r\nx-api-key: {keys.secret.reveal()}\r\n"
        f"trailer: {names}\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
        f"5\r\nhello\r\n0\r\n{trailers}\r\n",
    )
    assert answer.startswith("HTTP/1.1 200 ")
    assert "forged" not in answer


def send_forged(url: str, keys: Keys) -> None:
    """Send requests with a forged identity; the service must receive the gateway's only."""
    names = [*FORGED, *NAMES, *(name.upper() for name in NAMES), *(name.title() for name in NAMES)]
    names += [
        "X-Keyauthority-Kind",
        "X-Keyauthority-Kind",
        "X_KEYAUTHORITY_KIND",
        "x_Keyauthority-kinD",
    ]
    key = ("X-API-Key", "" + keys.secret)
    for first in range(0, len(names), AT_ONCE):
        forged = [(name, "forged, live") for name in names[first : first + AT_ONCE]]
        headers = received(f"{url}/orders", [*forged, key])
        assert not [texts for texts in headers.values() if "forged" in "".join(texts)]
        assert [["live"], ["secret"]] == [headers[name] for name in NAMES[2:4]]
        assert {*NAMES} >= {name for name in headers if "keyauthority" in name}
    for name in ("X-Keyauthority-Kind", "x-keyauthority-permissions, X-KEYAUTHORITY-MODE"):
        response = http.get(f"{url}/orders", headers=[("Connection", f"close, {name}"), key])
        lines = response.text.lower() if response.status_code == 200 else ""
        assert response.status_code == 400 or all(f'"{n}: ' in lines for n in NAMES[:4])


@one_sidecar
def test_other_spellings_of_the_credential_are_removed(url: str, keys: Keys) -> None:
    """The service would read them as the header that the gateway has checked."""
    names = [name for header in CREDENTIALS[1:] for name in list(spellings(header))[1:]]
    headers = received(
        f"{url}/orders",
        [*((name, "other") for name in names), ("X-API-Key", "" + keys.secret)],
    )
    assert not [texts for texts in headers.values() if "other" in texts]


@one_sidecar
def test_client_cannot_choose_its_address_or_its_requirements(url: str, keys: Keys) -> None:
    """X-Forwarded-For of the client, and the query and headers that a proxy sends itself."""
    local = ("X-API-Key", "" + keys.local)
    for name in ("X-Forwarded-For", "X-Real-IP", "Forwarded", "X-Envoy-External-Address"):
        assert (403, "ip_not_allowed") == denial(f"{url}/orders", local, (name, "192.0.2.7"))
    key = ("X-API-Key", "" + keys.reader)
    for header in (
        *(("X-Forwarded-Method", "GET"), ("X-Http-Method-Override", "GET")),
        *(("X-Original-Method", "GET"), ("X-Forwarded-Uri", "/health")),
        *(("X-Original-Url", "/health"), ("X-Rewrite-Url", "/health")),
    ):
        assert (403, "missing_permission") == denial(f"{url}/orders", key, header, method="DELETE")
    query = f"{url}/orders?permission=orders:read&mode=live"
    assert (403, "missing_permission") == denial(query, key, method="POST")


ODD_PATHS = (
    *(
        "/health",
        "//health",
        "/./health",
        "/%68ealth",
        "/health/",
        "/health;x",
        "/HEALTH",
        "/health%20",
    ),
    *("/orders/../health", "/orders/%2e%2e/health", "/orders/..%2fhealth", "/orders%2f..%2fhealth"),
    *(
        "/orders/..;/health",
        "/orders\\..\\health",
        "/orders/%2e%2e%2fhealth",
        "/orders/.%2e/health",
    ),
    *("/health/../orders", "/health/..%2forders", "/health%2f..%2forders", "/health#/orders"),
    *(
        "/x/../orders",
        "//orders",
        "/%6frders",
        "/x/..%2forders",
        "/x%2f..%2forders",
        "/x/%2e%2e/orders",
    ),
    *(
        "/orders%2f1",
        "/orders%00",
        "/orders;x",
        "/./orders",
        "/orders/.",
        "/x\\..\\orders",
        "/orders%5c1",
    ),
)


@one_sidecar
def test_odd_path_is_checked_as_the_service_reads_it(url: str, keys: Keys) -> None:
    """No spelling of /orders passes without a key, or to write without the permission."""
    address = url.removeprefix("http://")
    key = f"x-api-key: {keys.reader.reveal()}\r\n"
    for path in ODD_PATHS:
        for method, header in (("GET", ""), ("POST", key)):
            head = (
                f"{method} {path} HTTP/1.1\r\nhost: {address}\r\n{header}connection: close\r\n\r\n"
            )
            received_path = _path_received(address, head)
            read = {reading for text in received_path for reading in _readings(text)}
            assert not [text for text in read if text.startswith("/orders")], (method, path)
            assert header or not read or "/health" in read, (path, read)


def _path_received(address: str, head: str) -> list[str]:
    """Send a request as it is; return the path that the service received, if it received one."""
    found = re.search(r'\["\w+ (\S+) HTTP', _exchange(address, head))
    return [found[1].partition("?")[0]] if found else []


def _exchange(address: str, request: str) -> str:
    """Send bytes as they are, and return the answer up to the end of the connection."""
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), 30) as connection:
        connection.sendall(request.encode("latin-1"))
        return b"".join(iter(partial(connection.recv, 65_536), b"")).decode("latin-1")


def _readings(path: str) -> set[str]:
    """Return the paths that services read in one: decoded or not, normalised or not."""
    plain = {path, unquote(path)}
    plain |= {text.replace("\\", "/") for text in plain}
    plain |= {re.sub(";[^/]*", "", text) for text in plain}
    plain |= {re.sub("/+", "/", text) for text in plain}
    return {
        text.lower().rstrip("/. ") for text in plain | {posixpath.normpath(text) for text in plain}
    }


@one_sidecar
def test_route_without_a_check_carries_no_identity(url: str) -> None:
    """A client must not pass as checked there."""
    headers = received(f"{url}/health", [(name, "forged") for name in NAMES])
    assert not [name for name in headers if "keyauthority" in name]


@one_sidecar
def test_revoked_key_is_denied_within_100_ms(url: str, client: Client, keys: Keys) -> None:
    """Through the proxy, which must not remember an answer."""
    created = client.create_key(keys.project_id, mode="live", kind="secret")
    key = ("X-API-Key", "" + created.secret_key)
    received(f"{url}/orders", [key])
    client.revoke_key(created.key.access_key, reason="key_compromise")
    threading.Event().wait(0.1)
    assert (401, "revoked") == denial(f"{url}/orders", key)


@one_sidecar
def test_hanging_gateway_admits_nothing(url: str, sidecar: Gateway, keys: Keys) -> None:
    """The proxies give up after 2 s, Traefik after its own 30 s."""
    headers = {"x-api-key": keys.secret.reveal()}
    sidecar.process.send_signal(signal.SIGSTOP)
    try:
        statuses = {http.get(f"{url}/orders", headers=headers, timeout=4).status_code}
    except httpx.ReadTimeout:
        statuses = set()
    finally:
        sidecar.process.send_signal(signal.SIGCONT)
    assert {503} >= statuses
    wait_until(lambda: http.get(f"{url}/orders", headers=headers).status_code == 200)


def test_nothing_is_admitted_without_authority_or_gateway(service: str, tmp_path: Path) -> None:
    """503 while the gateway cannot tell; no admission without it; recovery of its own."""
    server = shared().start(tmp_path / "data")
    address, operator = server.address, {"KEYAUTHORITY_OPERATOR_KEY": server.operator_key}
    with Client(address, operator_key=server.operator_key) as client:
        project = client.create_project("Shop")
        secret = client.create_key(project.project_id, mode="live", kind="secret").secret_key
    ends = Ends(f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}", service)
    running: Any = {"settings": operator, "grpc": ends.grpc, "http": ends.http}
    with ExitStack() as stack:
        urls = {}
        for name in PROGRAMS:
            (tmp_path / name).mkdir()
            entered = proxy(name, tmp_path / name, ends)
            urls[name] = stack.enter_context(entered)

        def statuses() -> set[int]:
            headers = {"x-api-key": "" + secret}
            return {http.get(f"{url}/orders", headers=headers).status_code for url in urls.values()}

        assert {500, 502, 503} >= statuses()
        with gateway(address, "--trusted-proxies", "1", **running):
            wait_until(lambda: statuses() == {200})
            server.stop()
            wait_until(lambda: statuses() == {503})
            server = shared().start(tmp_path / "data", listen=address)
            wait_until(lambda: statuses() == {200})
        assert {500, 502, 503} >= statuses()
        with gateway(address, "--trusted-proxies", "1", **running):
            wait_until(lambda: statuses() == {200})
    server.stop()
