"""The page about webhooks: its examples run, and its receivers take only what is genuine."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Final

import httpx
import pytest
from standardwebhooks import Webhook

from keyauthority import Client
from keyauthority.clock import SystemClock
from keyauthority.notify.outbox import DELAYS
from tests.contract.documents import ROOT, Reader, blocks, install_commands
from tests.notify.conftest import SECRET, Sending
from tests.ports import free_port
from tests.service.forkserver import shared
from tests.service.processes import end
from tests.unit.waiting import until

PAGE: Final = ROOT / "docs" / "webhooks.md"
BODY: Final = '{"type":"test.sent"}'


def signed(secret: str, ago: timedelta, body: str = BODY) -> dict[str, str]:
    """Return the headers of a request that was signed some time ago."""
    time = SystemClock().now() - ago
    signature = Webhook(secret).sign("1", time, body)
    timestamp = str(int(time.timestamp()))
    return {"webhook-id": "1", "webhook-timestamp": timestamp, "webhook-signature": signature}


def check_receiver(url: str, secret: str) -> None:
    """Send a genuine request twice, and forged ones."""

    def status(headers: Mapping[str, str], body: str = BODY) -> int:
        return httpx.post(url, content=body, headers=headers).status_code

    genuine, other = signed(secret, timedelta(0)), signed(f"whsec_{'A' * 43}=", timedelta(0))
    assert 204 == status(genuine)
    both = f"{other['webhook-signature']} {genuine['webhook-signature']}"
    assert 204 == status({**genuine, "webhook-signature": both})
    assert 401 == status(other)
    assert 401 == status(genuine, BODY.replace("sent", "Sent"))
    assert 401 == status({**genuine, "webhook-id": "2"})
    assert 401 == status({**genuine, "webhook-signature": genuine["webhook-signature"][3:]})
    assert 401 == status(signed(secret, timedelta(minutes=6)))
    assert 401 == status(signed(secret, timedelta(minutes=-6)))
    assert 401 == status({})


def source(language: str, port: int) -> str:
    """Return the receiver in a language, at another port."""
    (text,) = [block.text for block in blocks(PAGE) if block.language == language]
    return text.replace("8081", str(port))


def test_examples_deliver_to_a_receiver_that_verifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From an operator key and a secret to an event; repeats are taken once."""
    install_commands(tmp_path)
    server = shared().start(tmp_path / "keyauthority-data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/.venv/bin:{os.environ['PATH']}")
    port = free_port()
    (tmp_path / "receiver.py").write_text(source("python", port))
    try:
        reader = Reader(PAGE, server.address, {"8081": str(port)})
        set_up, launch, run, stop = [block for block in blocks(PAGE) if block.language == "sh"]
        reader.run(set_up)
        reader.run(launch)
        try:
            reader.run(run)
            secret = (tmp_path / "webhook.secret").read_text().strip()
            check_receiver(f"http://127.0.0.1:{port}/webhooks", secret)
        finally:
            reader.run(stop)
    finally:
        server.stop()
    assert ["project.created", "test.sent"] == (tmp_path / "received.txt").read_text().split()


async def test_receiver_in_javascript_verifies(
    sending: Sending, client: Client, tmp_path: Path
) -> None:
    """It takes an event of the command, once, and refuses those that are forged."""
    port, received = free_port(), tmp_path / "received"
    (tmp_path / "receiver.mjs").write_text(source("js", port))
    with node(tmp_path / "receiver.mjs", received):
        await until(lambda: accepts_connections(port))
        async with sending(webhook=f"http://127.0.0.1:{port}/"):
            client.create_project("Shop")
            await until(received.read_text)
        check_receiver(f"http://127.0.0.1:{port}/", SECRET)
    assert ["project.created", "test.sent"] == received.read_text().split()


@contextmanager
def node(program: Path, output: Path) -> Iterator[None]:
    """Run a program of Node with the secret in its environment."""
    command = shutil.which("node")
    if command is None:
        pytest.skip("node is not installed")
    with output.open("w") as file:
        running = subprocess.Popen(
            [command, str(program)], env={**os.environ, "WEBHOOK_SECRET": SECRET}, stdout=file
        )
    with running:
        try:
            yield
        finally:
            end(running)


def accepts_connections(port: int) -> bool:
    """Return True if somebody listens."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_every_block_is_run_or_is_an_event() -> None:
    """A fence with another language would be skipped silently."""
    page = blocks(PAGE)
    assert ["js", "json", "python", "sh", "sh", "sh", "sh"] == sorted(
        block.language for block in page
    )
    (event,) = [json.loads(block.text) for block in page if block.language == "json"]
    text = PAGE.read_text(encoding="utf-8")
    assert f"`{event['data']['logId']}-{event['data']['revision']}`" in text


def test_page_has_the_waits_of_the_schedule() -> None:
    """In the order of the code."""
    found = re.search(
        r"waits of (\d+) seconds, (\d+) and (\d+) minutes, ([\d, and]+) hours",
        " ".join(PAGE.read_text(encoding="utf-8").split()),
    )
    assert found
    minutes = [60 * int(text) for text in found.groups()[1:3]]
    hours = [3600 * int(text) for text in re.findall(r"\d+", found[4])]
    assert list(DELAYS) == [int(found[1]), *minutes, *hours]
