"""The metrics of the command."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from keyauthority import Client
from keyauthority.clock import SystemClock
from keyauthority.endpoint.listen import Listen
from keyauthority.notify.journal import FORMAT, Journal
from keyauthority.notify.metrics import CONNECTIONS_MAX
from keyauthority.notify.outbox import Outbox
from tests.contract.documents import ROOT
from tests.notify.conftest import Sending, change, until_taken
from tests.notify.receiver import OK, Receiver, Reply

PAGE: Final = ROOT / "docs" / "webhooks.md"
ANY_PORT: Final = Listen("127.0.0.1", 0)


async def fetch(log: str, path: str = "/metrics") -> str:
    """Return the page at the address that the log names."""
    (address,) = re.findall(r"metrics are served on (\S+)", log)

    def get() -> str:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
            return str(answer.read(), "ascii")

    return await asyncio.to_thread(get)


def samples(text: str) -> dict[tuple[str, ...], float]:
    """Return the values by name and labels."""
    return {
        (sample.name.removeprefix("keyauthority_notify_"), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_metrics_count_events_attempts_and_pending_ones(
    sending: Sending, client: Client, hooks: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """One event is delivered, one waits for its second attempt."""
    caplog.set_level("INFO", "keyauthority.notify")
    async with sending(metrics=ANY_PORT):
        fresh = samples(await fetch(caplog.text))
        await until_taken(hooks, change(client))  # the project's event, and the key's
        hooks.answer = lambda event_id, number: Reply(500)
        before = len(hooks.requests)
        project = client.create_project("Shop")
        while ("failed", 1.0) not in _ends(now := samples(await fetch(caplog.text))):
            assert before + 1 >= len(hooks.requests)
        hooks.answer = lambda event_id, number: OK
        with pytest.raises(urllib.error.HTTPError, match="404"):
            await fetch(caplog.text, "/healthz")
    assert {0.0} == {value for (name, *_), value in fresh.items() if name != "revision"}
    assert {name: now[name] for name in fresh} == {
        ("events_total", "change"): 3,
        ("events_total", "advisory"): 0,
        ("attempts_total", "delivered"): 2,
        ("attempts_total", "failed"): 1,
        ("attempts_total", "given_up"): 0,
        ("attempts_total", "gone"): 0,
        ("pending_events", "new"): 0,
        ("pending_events", "retry"): 1,
        ("oldest_pending_seconds",): now["oldest_pending_seconds",],
        ("revision",): project.revision,
    }
    assert 0 < now["oldest_pending_seconds",] < 60


def _ends(found: dict[tuple[str, ...], float]) -> set[tuple[str, float]]:
    return {(labels[-1], value) for labels, value in found.items()}


async def test_idle_connections_take_no_descriptor_that_deliveries_need(
    sending: Sending, client: Client, hooks: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    """The oldest are closed; a scrape and an event go through."""
    caplog.set_level("INFO", "keyauthority.notify")
    async with sending(metrics=ANY_PORT):
        await fetch(caplog.text)
        host, _, port = re.findall(r"metrics are served on (\S+)", caplog.text)[0].rpartition(":")
        opened = [
            await asyncio.open_connection(host, int(port)) for _ in range(CONNECTIONS_MAX * 2)
        ]
        for reader, _ in opened[:CONNECTIONS_MAX]:
            with suppress(ConnectionResetError):
                assert b"" == await asyncio.wait_for(reader.read(), 20)
        assert await fetch(caplog.text)
        assert not opened[-1][0].at_eof()
        await until_taken(hooks, change(client))
        for _, writer in opened:
            writer.close()


async def test_documentation_lists_each_metric(
    sending: Sending, caplog: pytest.LogCaptureFixture
) -> None:
    """Name, type and labels with their values are those of the page."""
    caplog.set_level("INFO", "keyauthority.notify")
    async with sending(metrics=ANY_PORT):
        text = await fetch(caplog.text)
    rows = re.findall(
        r"^\| `(keyauthority_notify_\w+)` \| (\w+) \|([^|]*)\|",
        PAGE.read_text("utf-8"),
        re.MULTILINE,
    )
    documented = {(name, kind, *re.findall(r"`(\w+)`", labels)) for name, kind, labels in rows}
    assert documented == {
        (
            family.samples[0].name,
            family.type,
            *family.samples[0].labels,
            *(value for sample in family.samples for value in sample.labels.values()),
        )
        for family in text_string_to_metric_families(text)
    }


def test_age_of_pending_events_survives_a_restart(tmp_path: Path) -> None:
    """An event of a file without times counts from the start."""
    taken = SystemClock().now().timestamp() - 3600
    operations = [FORMAT, ["add", "1", "{}"]]
    for line, (least, most) in (
        (operations, (0, 60)),
        ([*operations, ["add", "2", "{}", taken]], (3600, 3660)),
    ):
        path = tmp_path / "cursor"
        path.write_text(f"{json.dumps(line)}\n")
        with Journal(path) as journal:
            assert least <= Outbox(journal).oldest_age < most
