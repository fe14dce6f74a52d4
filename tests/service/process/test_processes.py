"""The process tree: ready line, worker replacement, drain, and state after a kill."""

from __future__ import annotations

import json
import os
import signal
import stat
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keyauthority.v1 import (
    key_authority_service_pb2,
    key_authority_service_pb2_grpc,
    key_pb2,
    project_service_pb2,
    project_service_pb2_grpc,
)
from tests.conftest import Start
from tests.service import processes
from tests.service.forkserver import shared
from tests.service.processes import ServerProcess, is_alive, kill, wait_until

CALL_SECONDS = 10


def health(channel: grpc.Channel) -> Any:
    """The stub of health; its types know only the servicer."""
    return health_pb2_grpc.HealthStub(channel)


def check_health(server: ServerProcess) -> health_pb2.HealthCheckResponse:
    """Ask for the server's health over a connection of its own."""
    with grpc.insecure_channel(server.address) as channel:
        answer = health(channel).Check(health_pb2.HealthCheckRequest(), timeout=CALL_SECONDS)
        return cast("health_pb2.HealthCheckResponse", answer)


def default_project(channel: grpc.Channel, server: ServerProcess) -> str:
    """The id of the project that the server made at its first start."""
    projects = project_service_pb2_grpc.ProjectServiceStub(channel).ListProjects(
        project_service_pb2.ListProjectsRequest(), metadata=server.metadata, timeout=CALL_SECONDS
    )
    return projects.projects[0].project_id


def create_key(channel: grpc.Channel, server: ServerProcess, project_id: str, purpose: str) -> None:
    """Create a key."""
    request = key_authority_service_pb2.CreateKeyRequest(
        project_id=project_id,
        mode=key_pb2.KEY_MODE_TEST,
        kind=key_pb2.KEY_KIND_SECRET,
        purpose=purpose,
    )
    stub = key_authority_service_pb2_grpc.KeyAuthorityServiceStub(channel)
    stub.CreateKey(request, metadata=server.metadata, timeout=CALL_SECONDS)


def purposes(server: ServerProcess) -> set[str]:
    """The purposes of all keys of the first project."""
    found: set[str] = set()
    page_token = ""
    with grpc.insecure_channel(server.address) as channel:
        project_id = default_project(channel, server)
        stub = key_authority_service_pb2_grpc.KeyAuthorityServiceStub(channel)
        while True:
            page = stub.ListKeys(
                key_authority_service_pb2.ListKeysRequest(
                    project_id=project_id, page_size=1000, page_token=page_token
                ),
                metadata=server.metadata,
                timeout=CALL_SECONDS,
            )
            found |= {key.purpose for key in page.keys}
            page_token = page.next_page_token
            if not page_token:
                return found


@pytest.mark.parametrize("workers", [1, 2])
def test_start_prints_one_line_and_sigterm_exits_0(
    start_server: Start, transport: str, workers: int
) -> None:
    """Standard output holds the ready line only."""
    server = start_server("--transport", transport, "--workers", str(workers))
    assert health_pb2.HealthCheckResponse.SERVING == check_health(server).status
    outcome = server.stop()
    assert f"keyauthority-server ready on {server.address}\n" == outcome.output
    assert 0 == outcome.code


def test_interrupt_of_the_process_group_drains(start_server: Start) -> None:
    """Ctrl-C, which the terminal also sends to workers, is an orderly stop."""
    server = start_server("--workers", "2")
    for pid in [*server.worker_pids(), server.process.pid]:
        os.kill(pid, signal.SIGINT)
    outcome = server.wait()
    assert 0 == outcome.code
    assert "worker_ended" not in outcome.log


def test_data_folder_and_its_files_are_private(start_server: Start, data: Path) -> None:
    """Only the server's user can read the folder and its files."""
    start_server()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in data.iterdir()}
    assert 0o700 == stat.S_IMODE(data.stat().st_mode)
    assert {0o600} == set(modes.values()), modes


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0", "localhost:0"])
def test_port_0_is_one_port_for_all_workers(
    start_server: Start, transport: str, listen: str
) -> None:
    """The ready line shows the given host with the port that all workers share."""
    server = start_server("--transport", transport, "--workers", "2", listen=listen)
    host, _, port = server.address.rpartition(":")
    assert listen.rpartition(":")[0] == host
    assert int(port) > 0
    assert health_pb2.HealthCheckResponse.SERVING == check_health(server).status


def test_public_address_is_served_by_grpcio_if_plaintext_is_allowed(start_server: Start) -> None:
    """--transport auto selects grpcio for an address that other machines reach."""
    server = start_server("--allow-plaintext", "--workers", "2", listen="0.0.0.0:0")
    with grpc.insecure_channel(server.address.replace("0.0.0.0", "127.0.0.1")) as channel:  # noqa: S104
        health(channel).Check(health_pb2.HealthCheckRequest(), timeout=CALL_SECONDS)
    assert "transport=grpcio" in server.log_text()


def test_unix_socket_is_reused_after_a_kill_and_removed_on_exit(
    start_server: Start, transport: str, tmp_path: Path
) -> None:
    """The socket of a killed server is taken over; an orderly stop removes it."""
    path = tmp_path / "socket"
    listen = f"unix:{path}"
    start_server("--transport", transport, listen=listen).kill()
    assert path.is_socket()
    server = start_server("--transport", transport, listen=listen)
    assert listen == server.address
    assert health_pb2.HealthCheckResponse.SERVING == check_health(server).status
    assert 0 == server.stop().code
    assert not path.exists()


@pytest.mark.case(28)
def test_killed_worker_is_replaced_while_others_serve(start_server: Start, transport: str) -> None:
    """New callers notice nothing, and another worker starts."""
    server = start_server("--transport", transport, "--workers", "2")
    first, second = server.worker_pids()
    kill(first)
    wait_until(
        lambda: (
            check_health(server).status == health_pb2.HealthCheckResponse.SERVING
            and server.log_text().count("worker_serves") == 3
        )
    )
    assert second in server.worker_pids()
    assert 2 == len(server.worker_pids())
    assert 0 == server.stop().code


@pytest.mark.case(28)
def test_crash_loop_ends_the_server_with_the_reason(start_server: Start) -> None:
    """Five deaths of a worker within 30 s give exit code 3 and a clear line."""
    server = start_server()
    for _ in range(5):
        wait_until(lambda: len(server.worker_pids()) == 1)
        kill(server.worker_pids()[0])
    outcome = server.wait()
    assert 3 == outcome.code
    assert "keyauthority-server: worker 0 ended 5 times in 30 s" in outcome.log.splitlines()


def test_killed_supervisor_ends_its_workers(start_server: Start, transport: str) -> None:
    """After kill -9 no worker keeps port or folder, and a new server starts."""
    server = start_server("--transport", transport, "--workers", "2")
    workers = server.worker_pids()
    server.kill()
    assert [] == [pid for pid in workers if is_alive(pid)]
    again = start_server("--transport", transport, "--workers", "2", listen=server.address)
    assert server.address == again.address
    assert health_pb2.HealthCheckResponse.SERVING == check_health(again).status


def test_stopped_worker_ends_with_its_supervisor_once_it_continues(
    start_server: Start,
) -> None:
    """A SIGSTOPped worker ends as soon as it continues; a new start waits for it."""
    server = start_server()
    (worker,) = server.worker_pids()
    os.kill(worker, signal.SIGSTOP)
    server.process.kill()
    server.wait()
    threading.Timer(1.0, os.kill, (worker, signal.SIGCONT)).start()
    start_server()
    assert not is_alive(worker)


@pytest.mark.case(29)
def test_drain_reports_not_serving_and_releases_health_watchers(
    start_server: Start, transport: str
) -> None:
    """A health watcher is notified before the end and does not delay it."""
    server = start_server("--transport", transport)
    with grpc.insecure_channel(server.address) as channel:
        watch = health(channel).Watch(health_pb2.HealthCheckRequest())
        statuses = [next(watch).status]
        server.terminate()
        statuses += [answer.status for answer in watch]
        outcome = server.wait()
    serving, not_serving = (
        health_pb2.HealthCheckResponse.SERVING,
        health_pb2.HealthCheckResponse.NOT_SERVING,
    )
    assert [serving, not_serving] == statuses
    assert 0 == outcome.code


@pytest.mark.case(29)
@pytest.mark.parametrize("workers", [1, 2])
def test_drain_under_load_cuts_no_admitted_call(
    start_server: Start, transport: str, workers: int
) -> None:
    """Calls admitted before SIGTERM are answered: the keys present are those acknowledged."""
    server = start_server("--transport", transport, "--workers", str(workers))
    acknowledged: set[str] = set()
    codes: set[grpc.StatusCode] = set()
    warm = threading.Semaphore(0)

    def create_until_refused() -> None:
        with grpc.insecure_channel(
            server.address, (("grpc.use_local_subchannel_pool", 1),)
        ) as channel:
            project_id = default_project(channel, server)
            while True:
                purpose = str(uuid.uuid4())
                try:
                    create_key(channel, server, project_id, purpose)
                except grpc.RpcError as error:
                    codes.add(error.code())
                    return
                acknowledged.add(purpose)
                warm.release()

    with ThreadPoolExecutor(8) as callers:
        running = [callers.submit(create_until_refused) for _ in range(8)]
        for _ in range(100):
            assert warm.acquire(timeout=CALL_SECONDS)
        server.terminate()
        for one in running:
            one.result()
    assert 0 == server.wait().code
    refused = {grpc.StatusCode.UNAVAILABLE}
    if transport == "grpcio":
        refused.add(grpc.StatusCode.CANCELLED)  # its answer to calls that it had not begun
    assert codes <= refused
    assert purposes(start_server()) == acknowledged


def test_settings_are_in_no_worker_argument_or_environment(data: Path) -> None:
    """A store URL, which may hold a password, is in no worker's /proc entries."""
    store = data.with_name("elsewhere.db")
    server = processes.start(data, settings={"KEYAUTHORITY_STORE": f"sqlite://{store}"})
    try:
        (worker,) = server.worker_pids()
        shown = [Path(f"/proc/{worker}/{name}").read_bytes() for name in ("cmdline", "environ")]
        assert store.exists()
        assert [] == [text for text in shown if b"elsewhere" in text]
    finally:
        server.stop()


def test_json_log_has_one_object_per_line(start_server: Start) -> None:
    """With --log-format json every line of standard error is a JSON object."""
    outcome = start_server("--log-format", "json", "--workers", "2").stop()
    events = [json.loads(line)["event"] for line in outcome.log.splitlines()]
    assert {"authority_founded", "worker_serves", "stopping", "draining"} == set(events)


def test_init_and_migrate_create_a_servable_folder(start_server: Start, data: Path) -> None:
    """`init` equals a first start, `migrate` upgrades a store; both may be repeated."""
    for action in ("migrate", "init", "init", "migrate"):
        outcome = shared().run(action, "--data", str(data))
        assert 0 == outcome.code
        assert all("authority_founded" in line for line in outcome.log.splitlines())
    token = (data / "operator.key").read_text(encoding="ascii")
    server = start_server()
    with grpc.insecure_channel(server.address) as channel:
        assert default_project(channel, server)
    assert token == (data / "operator.key").read_text(encoding="ascii")
