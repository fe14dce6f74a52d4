"""The metrics endpoint: sums over all workers, including ended ones."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import grpc

from keyauthority.v1 import key_authority_service_pb2, key_authority_service_pb2_grpc
from keyauthority_server.metrics import Metrics
from keyauthority_server.metrics.counting import GAUGES
from tests.conftest import Start
from tests.service.metrics import scrape, value
from tests.service.processes import ServerProcess, kill, wait_until

CALLS = 40
SECRET = "sk_test_marked"
DEPLOYMENT = Path(__file__).parents[3] / "docs/deployment.md"


def verify(server: ServerProcess) -> None:
    """Verify something that is no key, over a connection of its own."""
    with grpc.insecure_channel(server.address, (("grpc.use_local_subchannel_pool", 1),)) as channel:
        key_authority_service_pb2_grpc.KeyAuthorityServiceStub(channel).Verify(
            key_authority_service_pb2.VerifyRequest(secret_key=SECRET),
            metadata=server.metadata,
            timeout=10,
        )


def test_metrics_are_summed_over_all_workers(start_server: Start, transport: str) -> None:
    """Calls of every worker count, and still count after it has died."""
    server = start_server("--transport", transport, "--workers", "2", "--metrics", "127.0.0.1:0")
    labels = ('grpc_method="Verify"', 'grpc_code="OK"', 'grpc_type="unary"')
    for _ in range(CALLS):
        verify(server)
    wait_until(lambda: value(scrape(server), "grpc_server_handled_total", *labels) == CALLS)
    kill(server.worker_pids()[0])
    wait_until(lambda: value(scrape(server), "keyauthority_worker_restarts_total") == 1)
    text = scrape(server)
    assert CALLS == value(text, "grpc_server_handled_total", *labels)
    assert CALLS == value(text, "grpc_server_handling_seconds_count", labels[0])
    assert CALLS == value(text, "grpc_server_handling_seconds_bucket", labels[0], 'le="+Inf"')
    assert SECRET not in text


def test_documented_metrics_match_the_endpoint(start_server: Start) -> None:
    """Both lists are equal; metrics that only PostgreSQL has are in GAUGES."""
    shown = re.findall(
        r"^# HELP (\w+)", scrape(start_server("--metrics", "127.0.0.1:0")), re.MULTILINE
    )
    _, _, section = DEPLOYMENT.read_text(encoding="utf-8").partition("\n## Metrics\n")
    told = re.findall(r"`((?:grpc_server|keyauthority)_\w+)`", section.partition("\n## ")[0])
    assert sorted({*shown, *GAUGES}) == sorted(told)


def test_endpoint_is_off_without_the_flag(start_server: Start) -> None:
    """Without --metrics only the server listens."""
    server = start_server()
    verify(server)
    assert "metrics" not in server.log_text()


def test_counts_are_collected_once() -> None:
    """Collected counts are not counted again, and none is lost between two collections."""
    metrics = Metrics()
    call = metrics.call("service", "Method")
    taken: Counter[str] = Counter()
    for _ in range(3):
        call.finished("OK", 0.00003)
        call.finished("UNAVAILABLE", 20.0)
        metrics.verification("valid")
        counts = metrics.take()
        assert counts
        taken.update(counts["calls"][0]["codes"])
        assert 1 == counts["calls"][0]["buckets"][0]
        assert 1 == counts["calls"][0]["buckets"][-1]
        assert {"valid": 1} == counts["verifications"]
    assert {"OK": 3, "UNAVAILABLE": 3} == taken
    assert None is metrics.take()
