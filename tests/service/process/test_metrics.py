"""The metrics endpoint: sums over all workers, including ended ones."""

from __future__ import annotations

import re
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from keyauthority import AdvisoryType, Client
from keyauthority.model import VerdictCode
from keyauthority.v1 import key_authority_service_pb2, key_authority_service_pb2_grpc
from keyauthority_server.metrics import CACHED, CERTIFICATE_END, Metrics
from keyauthority_server.metrics.counting import ALERTED_CODES
from keyauthority_server.overload.errors import CloseReason, ShedReason
from tests.conftest import Start
from tests.service.callers import METHODS
from tests.service.certificates import LIFE, LOOPBACK, Issuer
from tests.service.metrics import scrape, value
from tests.service.processes import ServerProcess, kill, wait_until

CALLS = 40
SECRET = "sk_test_marked"
METRICS = Path(__file__).parents[3] / "docs/metrics.md"


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


def test_documented_metrics_match_the_endpoint(start_server: Start, tmp_path: Path) -> None:
    """Names, types and labels are those of a server that has them all: with TLS, on SQLite."""
    Issuer().issue(*LOOPBACK).write(tmp_path, "server")
    tls = ("--tls-cert", str(tmp_path / "server.pem"), "--tls-key", str(tmp_path / "server.key"))
    server = start_server("--metrics", "127.0.0.1:0", *tls)
    wait_until(lambda: CERTIFICATE_END in scrape(server))
    families = list(text_string_to_metric_families(scrape(server)))
    assert documented() == {
        (sample_name(one), one.type, label)
        for one in families
        for sample in one.samples
        for label in (sample.labels.keys() - {"le"} or {""})
    }
    seconds = value(scrape(server), CERTIFICATE_END) - datetime.now(UTC).timestamp()
    assert timedelta() < timedelta(seconds=seconds) <= LIFE


def documented() -> set[tuple[str, str, str]]:
    """Return name, type and each label of all metrics on the page; "" for none."""
    rows = re.findall(
        r"^\| `(\w+)` \| (\w+) \|([^|]*)\|", METRICS.read_text(encoding="utf-8"), re.MULTILINE
    )
    found = set()
    for name, kind, labels in rows:
        named = re.findall(r"`(\w+)`", re.sub(r": `[^|]*", "", labels)) or [""]
        found |= {(name, kind, label) for label in named}
    return found


def sample_name(family: Metric) -> str:
    """Return the name that the page has: counters end with `_total`."""
    return f"{family.name}_total" if family.type == "counter" else family.name


def test_series_that_alerts_need_are_zero_from_the_start(start_server: Start) -> None:
    """Each RPC with the codes of faults, each verdict, and each ground."""
    server = start_server("--metrics", "127.0.0.1:0")
    wait_until(lambda: CACHED in scrape(server))
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(scrape(server))
        for sample in family.samples
    }
    zero = [("keyauthority_verifications_total", code.name) for code in VerdictCode]
    zero += [("keyauthority_refusals_total", ground) for ground in ShedReason]
    zero += [("keyauthority_connections_closed_total", ground) for ground in CloseReason]
    assert [] == [name for name in zero if samples.get(name) != 0]
    handled = {name[1:] for name in samples if name[0] == "grpc_server_handled_total"}
    assert handled == {
        (code, method.name, method.containing_service.full_name, kind)
        for method in METHODS.values()
        for code in ALERTED_CODES
        for kind in ("server_stream" if method.server_streaming else "unary",)
    }


def test_figures_of_processes_are_those_of_the_system(start_server: Start) -> None:
    """The supervisor and each worker; a replaced worker's are the new process's."""
    server = start_server("--workers", "2", "--metrics", "127.0.0.1:0")
    names = {"supervisor", "worker-0", "worker-1"}
    before = figures(scrape(server), "process_start_time_seconds")
    assert names == before.keys()
    memory = figures(scrape(server), "process_resident_memory_bytes")
    assert all(10 * 2**20 < size < 2**31 for size in memory.values())
    assert all(figures(scrape(server), "process_open_fds").values())
    kill(server.worker_pids()[0])

    def is_replaced() -> bool:
        after = figures(scrape(server), "process_start_time_seconds")
        return after.keys() == names and after != before

    wait_until(is_replaced)


def figures(text: str, name: str) -> dict[str, float]:
    """Return the value of each process."""
    return {
        process: float(value)
        for process, value in re.findall(rf'{name}{{process="(\S+)"}} (\S+)', text)
    }


def test_advisories_are_counted_by_type(start_server: Start) -> None:
    """Each type has a series from the beginning; one worker counts for all."""
    server = start_server("--workers", "2", "--metrics", "127.0.0.1:0")

    def numbers() -> dict[str, float]:
        found = re.findall(
            r'^keyauthority_advisories\{type="(\w+)"\} (\S+)$', scrape(server), re.MULTILINE
        )
        return {type_: float(number) for type_, number in found}

    nothing = dict.fromkeys(map(str, AdvisoryType), 0.0)
    assert nothing == numbers()
    with Client(server.address, operator_key=server.operator_key) as client:
        project_id = client.create_project("Shop").project_id
        client.create_key(project_id, mode="live", kind="secret")
        wait_until(lambda: nothing | {"unrestricted": 1.0} == numbers())


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
        assert {"keyauthority_verifications": {"valid": 1}} == counts["events"]
    assert Counter(OK=3, UNAVAILABLE=3) == taken
    assert None is metrics.take()
