"""Library and command line as watchers of a server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading

import pytest

import keyauthority
from tests.service.processes import WAIT_SECONDS, ServerProcess, environment

pytestmark = pytest.mark.parametrize(
    "server", ["postgres-native-2", "sqlite-grpcio-2"], indirect=True
)


def test_client_watches_until_it_is_closed(client: keyauthority.Client) -> None:
    """Updates have the library's types; another thread can end the iteration."""
    project_id = client.create_project("Shop").project_id
    with client.watch_changes(project_id, snapshot=True, timeout=WAIT_SECONDS) as watch:
        first = next(watch)
        assert isinstance(first, keyauthority.WatchUpdate)
        assert "project_created" == first.changes[0].type
        created = client.create_key(project_id, mode="test", kind="secret")
        for update in watch:
            if update.checkpoint and update.revision >= created.revision:
                break
        assert created.key.access_key == update.changes[0].keys[0].access_key
        closing = threading.Timer(0.1, watch.close)
        closing.start()
        assert all(not update.resync for update in watch)
        closing.join()


def test_refused_watch_raises_in_the_iteration(client: keyauthority.Client) -> None:
    """The exception carries the reason."""
    with (
        client.watch_changes(from_revision=2**60) as watch,
        pytest.raises(keyauthority.FailedPrecondition) as refused,
    ):
        next(watch)
    assert keyauthority.ErrorReason.REVISION_AHEAD == refused.value.reason


async def test_async_client_watches_until_it_is_closed(server: ServerProcess) -> None:
    """The asynchronous iteration behaves the same."""
    async with keyauthority.AsyncClient(
        server.address, operator_key=server.operator_key
    ) as authority:
        project_id = (await authority.create_project("Shop")).project_id
        async with authority.watch_changes(project_id, timeout=WAIT_SECONDS) as watch:
            assert (await anext(watch)).checkpoint
            created = await authority.create_key(project_id, mode="test", kind="secret")
            async for update in watch:
                if update.changes:
                    break
            assert created.revision == update.changes[0].revision
            await watch.close()
            assert [] == [update async for update in watch]
        with pytest.raises(keyauthority.FailedPrecondition):
            async with authority.watch_changes(from_revision=2**60) as refused:
                await anext(refused)


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("end", "flags"), [(signal.SIGINT, ("--json",)), (signal.SIGTERM, ())], ids=["json", "text"]
)
def test_watch_command_prints_a_line_per_change_and_ends_on_interrupt(
    server: ServerProcess,
    client: keyauthority.Client,
    end: signal.Signals,
    flags: tuple[str, ...],
) -> None:
    """It exits with 0 and prints no message about the interrupt."""
    project = client.create_project("Shop \u202e")
    command = (sys.executable, "-m", "keyauthority.cli", "watch", "--snapshot")
    with subprocess.Popen(
        [*command, "--project-id", project.project_id, *flags],
        env=environment(
            {
                "KEYAUTHORITY_ADDRESS": server.address,
                "KEYAUTHORITY_OPERATOR_KEY": server.operator_key,
            }
        ),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        line = running.stdout.readline()
        running.send_signal(end)
        _, errors = running.communicate(timeout=WAIT_SECONDS)
    assert (0, "") == (running.returncode, errors)
    if flags:
        assert project.project_id == json.loads(line)["changes"][0]["projectId"]
    else:
        assert line.startswith(str(project.revision))
        assert "project_created  Shop \\u202e" in line
