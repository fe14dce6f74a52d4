"""The gateway as a process: start, end, a new operator key, an authority that is gone."""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import grpc
import httpx
import pytest

from keyauthority import Client, KeyKind
from keyauthority.cli.app import run as program
from keyauthority.gateway.authority import RIGHTS
from keyauthority.testing import Authority
from tests.gateway.browser import http
from tests.gateway.conftest import Keys, one_sidecar
from tests.gateway.envoy_client import HEALTH, ask, call, request, word
from tests.gateway.processes import Gateway, gateway
from tests.service.forkserver import shared
from tests.service.processes import wait_until
from tests.service.proxy import Proxy

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(
    key_authority: Authority, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Run:
    """Runs a gateway that ends by itself; returns its exit code and its message."""

    def ended(*flags: str, **settings: str) -> tuple[int, str]:
        for name, text in settings.items():
            monkeypatch.setenv(name, text)
        monkeypatch.setenv("KEYAUTHORITY_ADDRESS", key_authority.address)
        code = program(["gateway", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0", *flags])
        out, error = capsys.readouterr()
        assert not out
        return code, error

    return ended


def status(running: Gateway, key: str) -> int:
    """Return the status of a check over HTTP."""
    code: int = http.get(f"{running.url}/auth", headers={"x-api-key": key}).status_code
    return code


def operator_key(client: Client, rights: list[str]) -> tuple[str, str]:
    """Return the access key and the token of a new operator."""
    created = client.create_key("", kind=KeyKind.OPERATOR, permissions=rights)
    return created.key.access_key, "" + created.secret_key


@pytest.mark.parametrize("missing", RIGHTS)
def test_missing_right_is_named_with_exit_code_2(run: Run, client: Client, missing: str) -> None:
    """A gateway without it would answer wrongly or not at all."""
    _, key = operator_key(client, [right for right in RIGHTS if right != missing])
    code, message = run(KEYAUTHORITY_OPERATOR_KEY=key)
    assert 2 == code
    assert f"keyauthority: the operator key lacks {missing}\n" == message


@pytest.mark.parametrize(
    ("flags", "code", "text"),
    [
        (["--http", "0.0.0.0:0"], 2, "--http: 0.0.0.0:0 can be reached from other machines"),
        (["--http", "[::]:0"], 2, "can be reached from other machines"),
        (["--grpc", "shop:9001"], 2, "--grpc: 'shop:9001': write an IP address and a port"),
        (["--grpc", "127.0.0.1"], 2, "write an IP address and a port"),
        (["--grpc", "unix:socket"], 2, "write an IP address and a port, or unix:/path"),
        (["--grpc", "off", "--http", "off"], 2, "nothing to do"),
        (["--trusted-proxies", "-1"], 2, "--trusted-proxies"),
        (["--http", "192.0.2.1:0", "--allow-plaintext"], 3, "cannot listen"),
    ],
)
def test_unusable_setting_is_named(
    run: Run, operator: dict[str, str], flags: list[str], code: int, text: str
) -> None:
    """2 for a wrong setting, 3 for an address that cannot be had now."""
    ended, message = run(*flags, **operator)
    assert code == ended
    assert text in message
    assert 1 == message.count("\n"), message


def test_unusable_operator_key_ends_the_gateway(run: Run) -> None:
    """One that is missing or not valid cannot get better."""
    for key in ("", "op_live_x"):
        code, message = run(KEYAUTHORITY_OPERATOR_KEY=key)
        assert 2 == code
        assert "KEYAUTHORITY_OPERATOR_KEY" in message


def test_taken_address_ends_the_gateway(
    run: Run, sidecar: Gateway, operator: dict[str, str]
) -> None:
    """Two gateways must not share a port by accident, on either end."""
    for end, taken in (("--http", sidecar.http), ("--grpc", sidecar.grpc)):
        code, message = run(end, taken, **operator)
        assert (3, True) == (code, f"cannot listen on {taken}: " in message), message


def test_missing_extra_is_named(
    run: Run, operator: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command line alone does not bring uvicorn."""
    packages = ("keyauthority.gateway.", "keyauthority.endpoint.")
    for name in [name for name in sys.modules if name.startswith(packages)]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("keyauthority.gateway.sidecar", raising=False)
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    expected = "keyauthority: the gateway needs more: install keyauthority[gateway]\n"
    assert (2, expected) == run(**operator)


def test_unix_sockets_are_served(
    key_authority: Authority, operator: dict[str, str], keys: Keys, tmp_path: Path
) -> None:
    """A stale file of an HTTP socket is replaced."""
    ends = {"grpc": f"unix:{tmp_path}/grpc", "http": f"unix:{tmp_path}/http"}
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(f"{tmp_path}/http")
    with gateway(key_authority.address, settings=operator, **ends) as running:
        assert (running.grpc, running.http) == tuple(ends.values())
        transport = httpx.HTTPTransport(uds=f"{tmp_path}/http")
        with httpx.Client(transport=transport) as browser:
            assert (
                200
                == browser.get(
                    "http://gateway/auth", headers={"x-api-key": keys.secret}
                ).status_code
            )
        assert 200 == word(ask(running.grpc, request({"x-api-key": keys.secret})))[0]


@one_sidecar
def test_revoked_key_is_denied_within_100_ms(client: Client, keys: Keys, sidecar: Gateway) -> None:
    """The key had been used, so its record was cached."""
    for _ in range(5):
        created = client.create_key(keys.project_id, mode="live", kind="secret")
        assert 200 == status(sidecar, created.secret_key)
        client.revoke_key(created.key.access_key, reason="key_compromise")
        threading.Event().wait(0.1)
        assert 401 == status(sidecar, created.secret_key)


def test_new_operator_key_in_the_file_is_used(
    key_authority: Authority, client: Client, keys: Keys, tmp_path: Path
) -> None:
    """Without a restart and without a failed check; a bad one is logged and not used."""
    file = tmp_path / "operator.key"
    first, token = operator_key(client, list(RIGHTS))
    file.write_text(token)
    with gateway(
        key_authority.address, settings={"KEYAUTHORITY_OPERATOR_KEY_FILE": str(file)}
    ) as running:
        assert 200 == status(running, keys.secret)
        _, weak = operator_key(client, ["keys:verify"])
        file.write_text(weak)
        wait_until(lambda: "lacks keys:read" in running.log_text())
        file.write_text("")
        wait_until(lambda: "the file is empty" in running.log_text())
        _, second = operator_key(client, ["*:*"])
        file.write_text(second + "\n")
        wait_until(lambda: "the operator key is replaced" in running.log_text())
        client.revoke_key(first, reason="no_longer_used")
        created = client.create_key(keys.project_id, mode="live", kind="secret")
        assert 200 == status(running, created.secret_key)
        assert token not in running.log_text()
        assert 0 == running.stop()


def test_gateway_outlives_its_authority(tmp_path: Path) -> None:
    """It starts without one, answers 503, and recovers by itself, after a restart of it too."""
    server = shared().start(tmp_path / "data")
    address, key = server.address, server.operator_key
    with Client(address, operator_key=key) as client:
        project = client.create_project("Shop")
        secret = client.create_key(project.project_id, mode="live", kind="secret").secret_key
    server.stop()
    with gateway(address, settings={"KEYAUTHORITY_OPERATOR_KEY": key}) as running:
        assert 503 == status(running, secret)
        assert 503 == http.get(f"{running.url}/healthz").status_code
        assert b"\x08\x02" == call(running.grpc, HEALTH, b"")
        assert (503, '{"error": "unavailable"}') == word(
            ask(running.grpc, request({"x-api-key": secret}))
        )
        server = shared().start(tmp_path / "data", listen=address)
        wait_until(lambda: status(running, secret) == 200)
        wait_until(lambda: http.get(f"{running.url}/healthz").status_code == 200)
        server.stop()
        wait_until(lambda: status(running, secret) == 503)
        server = shared().start(tmp_path / "data", listen=address)
        wait_until(lambda: status(running, secret) == 200)
    server.stop()


def test_checks_under_way_are_answered_at_the_end(
    key_authority: Authority, operator: dict[str, str], client: Client, keys: Keys
) -> None:
    """A drain takes no answer from a client; the check waits for an authority that hangs."""
    way = Proxy(key_authority.address)
    with way.running(), gateway(way.address, settings=operator) as running:
        new = client.create_key(keys.project_id, mode="live", kind="secret").secret_key
        way.hang()
        found: list[int] = []
        ends = [
            threading.Thread(target=lambda: found.append(status(running, new))),
            threading.Thread(
                target=lambda: found.append(word(ask(running.grpc, request({"x-api-key": new})))[0])
            ),
        ]
        for end in ends:
            end.start()
        threading.Event().wait(0.2)  # they are under way: each waits a second for the authority
        assert 0 == running.stop()
        for end in ends:
            end.join()
        assert [503, 503] == found
        with pytest.raises((grpc.RpcError, httpx.ConnectError)):
            status(running, new)
