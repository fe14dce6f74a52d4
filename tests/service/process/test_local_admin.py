"""Local administration of a data folder while its server runs."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from keyauthority.token import parse
from keyauthority.v1 import project_service_pb2
from tests.conftest import Start
from tests.service.callers import (
    Caller,
    bearer,
    get_key,
    new_key,
    new_project,
    revoke,
    verdict,
)
from tests.service.forkserver import shared
from tests.service.metrics import scrape, value
from tests.service.processes import ServerProcess, wait_until

CONNECTIONS = 8  # so that each of two workers has some, but with a chance of 1 in 128
OLD_PEPPERS = "keyauthority_keys_under_old_peppers"


def told(server: ServerProcess, *arguments: str) -> str:
    """The output of a command on the server's folder, which must succeed."""
    outcome = shared().run(*arguments, "--data", str(server.data))
    assert (0, "") == (outcome.code, outcome.log)
    return outcome.output


def test_pepper_is_rotated_and_dropped_beside_a_running_server(start_server: Start) -> None:
    """No worker fails to verify any key; the metric shows when the old version may go."""
    server = start_server("--workers", "2", "--metrics", "127.0.0.1:0")
    with ExitStack() as stack:
        options = (("grpc.use_local_subchannel_pool", 1),)
        callers = [
            Caller(
                stack.enter_context(grpc.insecure_channel(server.address, options)),
                server.metadata,
            )
            for _ in range(CONNECTIONS)
        ]
        project = new_project(callers[0])
        secrets = [new_key(callers[0], project).secret_key for _ in range(3)]
        assert "version 2 is current\n" == told(server, "pepper", "rotate")
        for caller in callers:
            secrets.append(new_key(caller, project).secret_key)
            assert {"VALID"} == {verdict(other, secrets[-1]) for other in callers}
        refused = shared().run("pepper", "drop", "1", "--data", str(server.data))
        assert (1, "") == (refused.code, refused.output)
        assert secrets[0].split("_")[2] in refused.log

        wait_until(lambda: f"\n{OLD_PEPPERS} 3.0\n" in scrape(server))  # the caller's own is new

        def made_anew() -> bool:
            assert {"VALID"} == {verdict(callers[0], one) for one in secrets}
            return f"\n{OLD_PEPPERS} 0.0\n" in scrape(server)

        wait_until(made_anew)
        assert "      1  old              0         0       0  yes\n" in told(
            server, "pepper", "status"
        )
        assert "version 1 is dropped\n" == told(server, "pepper", "drop", "1")
        assert {"VALID"} == {verdict(caller, one) for caller in callers for one in secrets}
        assert 0 == value(scrape(server), "grpc_server_handled_total", 'grpc_code="UNAVAILABLE"')


def test_last_operator_key_is_replaced_locally(start_server: Start) -> None:
    """Revoking the last `*:*` key locks everyone out until `operator create` makes another."""
    server = start_server()
    with grpc.insecure_channel(server.address) as channel:
        root = Caller(channel, server.metadata)
        revoke(root, access_key=server.operator_key.split("_")[2])
        listing = project_service_pb2.ListProjectsRequest()
        assert "CREDENTIAL_INVALID" == root.refused(listing).reason

        outcome = shared().run(
            *("operator", "create", "--data", str(server.data), "--purpose", "way back")
        )
        assert 0 == outcome.code
        token = parse(outcome.output.removesuffix("\n"))
        assert token
        assert outcome.output.strip() not in outcome.log
        back = Caller(channel, (bearer(outcome.output.strip()),))
        (project,) = back.ask(listing).projects
        key = get_key(back, token.access_key)
        assert ("machine", "", "way back") == (key.created_by, key.created_from, key.purpose)
        assert ["*:*"] == key.permissions

        flags = ("--permission", "keys:read", "--ttl", "1h")
        confined = shared().run(
            *("operator", "create", "--data", str(server.data), *flags),
            *("--operator-project", project.project_id),
        )
        token = parse(confined.output.strip())
        assert token
        key = get_key(back, token.access_key)
        assert ([project.project_id], ["keys:read"]) == (key.operator_projects, key.permissions)
        assert 3600 == key.expire_time.seconds - key.create_time.seconds


def test_operator_create_rejects_an_unknown_right(tmp_path: Path) -> None:
    """It lists the valid rights and opens nothing."""
    flags = ("--data", str(tmp_path / "none"), "--permission", "keys:verfy")
    outcome = shared().run("operator", "create", *flags)
    assert outcome.code != 0
    assert "permissions[0]: not a right of operators; the rights are audit:read" in outcome.log


@pytest.mark.parametrize("command", [("operator", "create"), ("pepper", "status")])
def test_command_on_an_uninitialized_folder_is_one_error_line(
    command: tuple[str, str], data: Path
) -> None:
    """Nothing is created; the line names the first step."""
    outcome = shared().run(*command, "--data", str(data))
    assert (2, "", 1) == (outcome.code, outcome.output, outcome.log.count("\n"))
    assert f"{data} is not initialised: run keyauthority-server init, or serve" in outcome.log
    assert not data.exists()
