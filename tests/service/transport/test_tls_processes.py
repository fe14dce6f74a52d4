"""Server processes with TLS: many clients at once, a killed worker, peers and their addresses."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import pytest

import keyauthority
from keyauthority import Client, Tls
from tests.conftest import Start
from tests.service.certificates import server_tls
from tests.service.processes import kill, wait_until

CALL_SECONDS: Final = 20
CLIENTS: Final = 64


def test_clients_that_come_at_once_are_all_served(start_server: Start, tmp_path: Path) -> None:
    """After a restart all clients come back together; no handshake of theirs is cut."""
    made = server_tls(tmp_path)
    server = start_server(*made.flags)
    with ThreadPoolExecutor(32) as pool:
        opened = list(pool.map(lambda _: made.connect(server.address), range(CLIENTS)))
    try:
        assert {"h2"} == {one.selected_alpn_protocol() for one in opened}
    finally:
        for one in opened:
            one.close()


def test_killed_worker_is_replaced_and_the_others_serve(
    start_server: Start, tmp_path: Path
) -> None:
    """Each worker has its own TLS endpoint on the shared port."""
    made = server_tls(tmp_path)
    server = start_server(*made.flags, "--workers", "2")
    first = set(server.worker_pids())
    assert 2 == len(first)

    def verify() -> None:
        tls = Tls(ca=made.ca)
        with Client(
            server.address, operator_key=server.operator_key, tls=tls, timeout=CALL_SECONDS
        ) as client:
            assert keyauthority.VerdictCode.MALFORMED is client.verify("x").code

    kill(min(first))
    for _ in range(8):
        verify()
    wait_until(lambda: 2 == len(server.worker_pids()) and first != set(server.worker_pids()))
    for _ in range(8):
        verify()


@pytest.mark.parametrize("transport", ["native", "grpcio"])
def test_allowed_ips_of_an_operator_are_compared_with_the_client(
    start_server: Start, tmp_path: Path, transport: str
) -> None:
    """The client's address counts, not that of the endpoint's inner connection."""
    made = server_tls(tmp_path)
    server = start_server(*made.flags, "--transport", transport)
    tls, address = Tls(ca=made.ca), server.address
    with Client(address, operator_key=server.operator_key, tls=tls, timeout=CALL_SECONDS) as root:
        keys = [
            root.create_key(
                kind="operator",
                permissions=["keys:verify"],
                restrictions=keyauthority.Restrictions(allowed_ips=(allowed,)),
            ).secret_key.reveal()
            for allowed in ("127.0.0.1", "127.0.0.2")
        ]
    here, elsewhere = (
        Client(address, operator_key=key, tls=tls, timeout=CALL_SECONDS) for key in keys
    )
    with here, elsewhere:
        assert keyauthority.VerdictCode.MALFORMED is here.verify("x").code
        with pytest.raises(keyauthority.PermissionDenied) as denied:
            elsewhere.verify("x")
    assert keyauthority.ErrorReason.ADDRESS_NOT_ALLOWED is denied.value.reason
