"""The HTTP server of the metrics: one path, bounded connections, no risk to the supervisor."""

from __future__ import annotations

import re
import resource
import socket
import urllib.error
import urllib.request
from contextlib import ExitStack
from typing import Final

import pytest

from keyauthority_server.metrics.http import CONNECTIONS_MAX
from tests.conftest import Start
from tests.service.metrics import scrape
from tests.service.processes import ServerProcess, kill, wait_until

RETRY_SECONDS: Final = 0.9  # a client whose first attempt was dropped tries again after a second


def address_of(server: ServerProcess) -> tuple[str, int]:
    """The address of the metrics endpoint."""
    match = re.search(r"info metrics address=(\S+):(\d+)", server.log_text())
    assert match
    return match[1], int(match[2])


def test_metrics_other_path_is_not_found(start_server: Start) -> None:
    """Only /metrics is served; a query string is ignored."""
    server = start_server("--metrics", "127.0.0.1:0")
    host, port = address_of(server)
    for path in ("/", "/metric", "/metrics/x", "/healthz"):
        with pytest.raises(urllib.error.HTTPError) as failed:
            urllib.request.urlopen(f"http://{host}:{port}{path}", timeout=10)
        assert 404 == failed.value.code
        failed.value.close()
    assert "keyauthority_workers" in scrape(server)


def test_idle_connections_block_neither_scrapes_nor_the_supervisor(start_server: Start) -> None:
    """Threads are bounded; a dead worker is replaced when descriptors are free again."""
    server = start_server("--metrics", "127.0.0.1:0")
    host, port = address_of(server)
    pid = server.process.pid
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (64, 64))
    (worker,) = server.worker_pids()
    with ExitStack() as stack:
        for _ in range(4 * CONNECTIONS_MAX):
            stack.enter_context(socket.create_connection((host, port), RETRY_SECONDS))
        assert "keyauthority_workers" in scrape(server)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (8, 64))
        kill(worker)
        wait_until(lambda: "worker_not_started" in server.log_text())
        assert server.process.poll() is None
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (64, 64))
    wait_until(lambda: server.log_text().count("worker_serves") == 2)
    assert "keyauthority_workers" in scrape(server)
