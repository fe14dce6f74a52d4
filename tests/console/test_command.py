"""The command `keyauthority console`: its output, its refusals, its end; TLS."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette

from keyauthority.aio import AsyncClient
from keyauthority.console.serving import Settings, _config
from keyauthority.endpoint.listen import Listen, bind
from tests.client.conftest import Command, authority, command
from tests.console.people import Person, start_console
from tests.service.certificates import LOOPBACK, Issuer
from tests.service.processes import ServerProcess

__all__ = ["authority", "command"]

pytestmark = pytest.mark.xdist_group("console")


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--listen", "8080"], "--listen"),
        (["--listen", "127.0.0.1:99999"], "--listen"),
        (["--listen", "0.0.0.0:8080"], "--sign-in"),
        (["--listen", "0.0.0.0:8080", "--sign-in"], "--tls-cert"),
        (["--listen", "[::]:0", "--tls-cert", "c", "--tls-key", "k"], "--sign-in"),
        (["--sign-in", "--tls-cert", "c"], "--tls-key"),
        (["--sign-in", "--tls-cert", "/nonexistent", "--tls-key", "/nonexistent"], "/nonexistent"),
        (["--listen", "127.0.0.1:0"], "KEYAUTHORITY_OPERATOR_KEY"),
        (["--listen", "203.0.113.254:0", "--sign-in"], "loopback"),
        (["--sign-in", "--address", "http://x"], "--address"),
    ],
)
def test_wrong_configuration_is_one_line_and_exit_code_2(
    command: Command, flags: list[str], named: str
) -> None:
    """It names the option, before anything is served."""
    ended = command("console", *flags)
    assert (ended.code, ended.out, ended.err.count("\n")) == (2, "", 1), ended
    assert named in ended.err


def test_port_in_use_is_refused(
    command: Command, monkeypatch: pytest.MonkeyPatch, console_server: ServerProcess
) -> None:
    """With the port in the message."""
    monkeypatch.setenv("KEYAUTHORITY_OPERATOR_KEY", console_server.operator_key)
    ended = command("console", "--listen", console_server.address)
    assert ended.code == 3
    assert console_server.address in ended.err


def test_console_with_tls_answers_the_names_of_its_certificate(
    tmp_path: Path, console_server: ServerProcess
) -> None:
    """On every address; its cookie is for this host and encrypted connections only."""
    issuer = Issuer()
    cert, key = issuer.issue(*LOOPBACK).write(tmp_path, "console")
    files = ("--tls-cert", str(cert), "--tls-key", str(key))
    console = start_console(
        tmp_path, console_server.address, None, "--sign-in", *files, listen="0.0.0.0:0"
    )
    try:
        port = console.url.rpartition(":")[2]
        url = f"https://localhost:{port}"
        context = ssl.create_default_context(cadata=issuer.pem.decode())
        person = Person(url, verify=context)
        cookie = person.sign_in(console_server.operator_key).headers["set-cookie"]
        assert cookie.startswith("__Host-")
        assert {"Secure", "HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
        assert person.get("/projects").status_code == 200
        for host, status in (("evil.example", 421), (f"127.0.0.1:{port}", 303)):
            answer = httpx.get(f"{url}/projects", headers={"host": host}, verify=context)
            assert answer.status_code == status
    finally:
        console.stop()


async def test_silent_connections_keep_no_one_out() -> None:
    """A thousand of them, which send no request."""
    settings = Settings(
        "127.0.0.1", 0, connect=lambda _: AsyncClient(), address="", operator_key=None, sign_in=True
    )
    bound = bind(Listen(settings.host, 0))
    config = _config(settings, Starlette())
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup([bound])
    host, port = bound.getsockname()
    try:
        silent = [await asyncio.open_connection(host, port) for _ in range(1_000)]
        async with httpx.AsyncClient() as browser:
            answer = await browser.get(f"http://{host}:{port}/")
        assert 404 == answer.status_code  # of an application without pages
        for _, writer in silent:
            writer.close()
    finally:
        await server.shutdown([bound])
