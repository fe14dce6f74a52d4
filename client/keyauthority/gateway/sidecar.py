"""The running gateway: both ends on one verifier, from the start to the drain."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from keyauthority.endpoint.http_server import HttpServer, connections_max
from keyauthority.endpoint.listen import Listen, bind
from keyauthority.gateway.authority import AuthorityLink, Connect, ReadKey
from keyauthority.gateway.check import Checker
from keyauthority.gateway.envoy import EnvoyEnd
from keyauthority.gateway.forward_auth import HttpEnd
from keyauthority.gateway.grpc_server import GrpcServer
from keyauthority.gateway.metrics import Metrics

READY_SECONDS: Final = 5.0  # for the authority; after that the gateway is ready, and answers 503
DRAIN_SECONDS: Final = 5  # for checks to be answered

IsHealthy = Callable[[], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of a gateway."""

    connect: Connect
    read_key: ReadKey
    grpc: Listen | None
    """Address for Envoy; None for no gRPC."""
    http: Listen | None
    """Address for other proxies; None for no HTTP."""
    trusted_proxies: int
    keep_credential: bool


async def run(settings: Settings, announce: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain; `announce` receives the addresses.

    Raises OSError for an address that is taken, MissingRights for an operator key that lacks
    rights, and KeyAuthorityError for one that is not valid.
    """
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    metrics = Metrics()
    async with AuthorityLink(settings.connect, settings.read_key) as link:
        checker = Checker(link, metrics)

        def is_healthy() -> bool:
            return link.is_fresh() and not stopped.is_set()

        def metrics_text() -> str:
            return metrics.text(link.verifier.staleness, link.verifier.revision)

        async with (
            _serve_grpc(settings, checker, is_healthy) as grpc,
            _serve_http(settings, checker, is_healthy, metrics_text) as http,
        ):
            named = (("grpc", grpc), ("http", http))
            ends = ", ".join(f"{end} {address}" for end, address in named if address)
            await _run(link, stopped, lambda: announce(ends))


async def _run(link: AuthorityLink, stopped: asyncio.Event, announce: Callable[[], None]) -> None:
    """Announce the gateway, and wait for its end or a failure that it cannot outlive."""
    following = asyncio.create_task(link.follow())
    stopping = asyncio.create_task(stopped.wait())
    confirming = asyncio.create_task(link.confirmed.wait())
    first = asyncio.FIRST_COMPLETED
    try:
        await asyncio.wait(
            {following, stopping, confirming}, timeout=READY_SECONDS, return_when=first
        )
        if not following.done() and not stopped.is_set():
            announce()
        await asyncio.wait({following, stopping}, return_when=first)
        if following.done():
            await following
    finally:
        stopped.set()
        for task in (following, stopping, confirming):
            task.cancel()
        await asyncio.gather(following, return_exceptions=True)


@asynccontextmanager
async def _serve_grpc(
    settings: Settings, checker: Checker, is_healthy: IsHealthy
) -> AsyncIterator[Listen | None]:
    if settings.grpc is None:
        yield None
        return
    end = EnvoyEnd(checker, keep_credential=settings.keep_credential)
    server = GrpcServer(end.check, is_healthy)
    try:
        yield await server.start(settings.grpc)
    finally:
        await server.stop(DRAIN_SECONDS)


@asynccontextmanager
async def _serve_http(
    settings: Settings, checker: Checker, is_healthy: IsHealthy, metrics_text: Callable[[], str]
) -> AsyncIterator[Listen | None]:
    if settings.http is None:
        yield None
        return
    end = HttpEnd(
        checker,
        trusted_proxies=settings.trusted_proxies,
        is_healthy=is_healthy,
        metrics_text=metrics_text,
    )
    bound = bind(settings.http)
    server = HttpServer(end, DRAIN_SECONDS, connections_max())
    await server.start(bound)
    try:
        path = settings.http.path
        yield settings.http if path else settings.http._replace(port=bound.getsockname()[1])
    finally:
        await server.stop(bound)
