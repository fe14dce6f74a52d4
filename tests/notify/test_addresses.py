"""Addresses outside the public internet: never connected to, even if a name resolves to one."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from typing import Any, Final

import httpcore
import pytest

from keyauthority import Client
from keyauthority.notify import outbox
from keyauthority.notify.addresses import PublicBackend, RefusedAddress, is_public, resolve
from keyauthority.notify.settings import CannotNotify
from tests.notify.conftest import Sending, change, until_taken
from tests.notify.receiver import Receiver
from tests.unit.waiting import until

PUBLIC: Final = "93.184.215.14"
NAME: Final = "hooks.example.org"
REFUSED: Final = {
    "unspecified": ["0.0.0.0", "0.1.2.3", "::"],  # noqa: S104 - not listened on
    "loopback": ["127.0.0.1", "127.255.255.254", "::1"],
    "private": ["10.0.0.1", "172.16.0.1", "172.31.255.255", "192.168.1.1", "fc00::1", "fd00::1"],
    "shared": ["100.64.0.1", "100.100.100.200"],
    "link-local": ["169.254.169.254", "fe80::1", "fe80::1%1", "fec0::1"],
    "multicast": ["224.0.0.1", "239.255.255.255", "ff02::1", "ff0e::1"],
    "broadcast and reserved": ["255.255.255.255", "240.0.0.1", "4000::1", "100::1", "5f00::1"],
    "documentation": ["192.0.2.1", "198.51.100.1", "203.0.113.1", "2001:db8::1", "3fff::1"],
    "benchmarks and protocols": ["198.18.0.1", "192.0.0.170", "2001:2::1"],
    "IPv4-mapped": ["::ffff:127.0.0.1", "::ffff:8.8.8.8", "::ffff:0:127.0.0.1", "::127.0.0.1"],
    "NAT64": ["64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1"],
    "6to4 and Teredo": ["2002:7f00:1::1", "2002:808:808::1", "2001:0:7f00:1::1", "192.88.99.1"],
}
ALLOWED: Final = [PUBLIC, "8.8.8.8", "100.63.255.255", "172.32.0.1", "2606:4700::1111", "2a00::1"]


class Network:
    """The look-ups and connections of this process, with names and public hosts of the test's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: list[Sequence[str]] = []
        """Addresses of `NAME`, one entry for each look-up; the last one stays."""
        self.connected: list[str] = []
        self._lookup, self._connect = socket.getaddrinfo, socket.socket.connect
        monkeypatch.setattr(socket, "getaddrinfo", self._resolve)
        network = self

        def connect(connecting: socket.socket, address: Any) -> None:
            network.connected.append(address[0])
            host = "127.0.0.1" if address[0] == PUBLIC else address[0]
            network._connect(connecting, (host, *address[1:]))

        monkeypatch.setattr(socket.socket, "connect", connect)

    def _resolve(self, host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        if host not in (NAME, NAME.encode()):
            return self._lookup(host, port, *args, **kwargs)
        found = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            info
            for address in found
            for info in self._lookup(address, port, type=socket.SOCK_STREAM)
        ]


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    """The network of the test."""
    return Network(monkeypatch)


@pytest.mark.parametrize("kind", REFUSED)
async def test_address_outside_the_public_internet_is_refused(
    sending: Sending, network: Network, kind: str
) -> None:
    """At the start, as an address in the URL or as that of a name."""
    assert [] == [address for address in REFUSED[kind] if is_public(address)]
    first, *others = REFUSED[kind]
    network.answers = [*([PUBLIC, one] for one in others), [first]]
    for _ in others:
        with pytest.raises(RefusedAddress):
            await resolve(NAME, 443, allow_private=False)
    for host in (f"[{first}]" if ":" in first else first, NAME):
        with pytest.raises(CannotNotify, match="which is not public; --allow-private permits it"):
            async with sending(webhook=f"https://{host}/", allow_private=False):
                pass
    assert not network.connected


@pytest.mark.parametrize("address", ALLOWED)
def test_address_of_the_public_internet_is_not_refused(address: str) -> None:
    """Neighbours of refused networks among them."""
    assert is_public(address)


@pytest.mark.parametrize("spelling", ["2130706433", "0x7f.1", "017700000001", "127.1", "0"])
async def test_spelling_of_an_address_does_not_hide_it(spelling: str) -> None:
    """The system's resolver reads them, and its result is checked."""
    with pytest.raises(RefusedAddress, match=f"^{spelling} has the address"):
        await resolve(spelling, 443, allow_private=False)


async def test_one_refused_address_of_a_name_refuses_all(network: Network) -> None:
    """The order of addresses is not that of the checks elsewhere."""
    network.answers = [[PUBLIC, "10.0.0.1"]]
    with pytest.raises(RefusedAddress, match=r"hooks.example.org has the address 10.0.0.1"):
        await resolve(NAME, 443, allow_private=False)
    assert [PUBLIC, "10.0.0.1"] == await resolve(NAME, 443, allow_private=True)


async def connect_by_name(
    self: PublicBackend, host: str, port: int, *args: Any, **kwargs: Any
) -> httpcore.AsyncNetworkStream:
    """Check and then resolve again: the fault that `PublicBackend` must not have."""
    await resolve(host, port, allow_private=False)
    return await httpcore.AnyIOBackend().connect_tcp(host, port)


@pytest.mark.parametrize(
    ("connect", "is_safe"), [(PublicBackend.connect_tcp, True), (connect_by_name, False)]
)
async def test_name_that_rebinds_is_never_connected_to_at_a_refused_address(
    sending: Sending,
    client: Client,
    hooks: Receiver,
    network: Network,
    monkeypatch: pytest.MonkeyPatch,
    connect: Callable[..., Any],
    is_safe: bool,
) -> None:
    """Between two attempts, or between a check and the connection, as the control shows."""
    monkeypatch.setattr(PublicBackend, "connect_tcp", connect)
    monkeypatch.setattr(outbox, "DELAYS", (0.02,) * 50)
    network.answers = [[PUBLIC], *[[PUBLIC], ["127.0.0.1"], ["127.0.0.1"]] * 3, [PUBLIC]]
    url = f"http://{NAME}:{hooks.port}/hooks"
    async with sending(webhook=url, allow_private=False, allow_plaintext=True):
        await until_taken(hooks, *[change(client) for _ in range(3)])
    assert PUBLIC in network.connected or not is_safe
    assert is_safe == ({PUBLIC} == set(network.connected))
    assert f"{NAME}:{hooks.port}" == hooks.requests[0].headers["host"]


async def test_private_receiver_is_allowed_on_demand(
    sending: Sending, client: Client, hooks: Receiver, network: Network
) -> None:
    """The control of all refusals: the same receiver, reached by --allow-private."""
    network.answers = [["127.0.0.1"]]
    async with sending(webhook=f"http://{NAME}:{hooks.port}/"):
        await until_taken(hooks, change(client))
    assert {"127.0.0.1"} == set(network.connected)


async def test_name_without_an_address_is_a_failure_that_is_repeated(
    sending: Sending, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    """A resolver may be out of order for a while, also at the start."""
    async with sending(webhook="https://receiver.invalid/", allow_private=False):
        client.create_project("Shop")
        await until(lambda: any("attempt 1 failed: gaierror" in one for one in caplog.messages))
    assert any("receiver.invalid cannot be resolved yet" in one for one in caplog.messages)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "not a URL"),
        ("example.org/hooks", "not a URL"),
        ("ftp://example.org:21/", "not a URL"),
        ("https://", "not a URL"),
        ("https://exa mple.org/", "not a URL"),
        ("https://example.org/\r\nx: y", "not a URL"),
        ("https://example.org:99999/", "not a URL"),
        ("https://bücher.example/", "not a URL"),
        (f"https://{'a' * 64}.example/", "not a URL"),
        ("https://[::1/", "not a URL"),
        ("https://user:password@example.org/", "user name or a fragment"),
        ("https://example.org/#part", "user name or a fragment"),
        ("http://example.org/", "in plaintext: use https"),
    ],
)
async def test_url_that_cannot_be_used_is_refused(sending: Sending, url: str, reason: str) -> None:
    """Before anything is resolved."""
    with pytest.raises(CannotNotify, match=reason):
        async with sending(webhook=url, allow_private=False):
            pass


async def test_proxy_of_the_environment_is_not_used(
    sending: Sending, client: Client, hooks: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy would connect to addresses that were not checked."""
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with sending():
        await until_taken(hooks, change(client))
