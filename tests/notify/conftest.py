"""An authority that all tests of webhooks share, a receiver, and the command between them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from keyauthority import AsyncClient, Client
from keyauthority.notify import outbox, sender
from keyauthority.notify.sender import deliver
from keyauthority.notify.settings import Settings
from keyauthority.testing import Authority
from tests.authority import client, key_authority
from tests.notify.processes import Notify
from tests.notify.receiver import Receiver, receiver
from tests.unit.waiting import until

__all__ = ["client", "key_authority"]

SECRET: Final = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

StartNotify = Callable[..., Notify]


@pytest.fixture
def hooks() -> Iterator[Receiver]:
    """A receiver that takes everything."""
    with receiver() as running:
        yield running


@pytest.fixture
def prepare(key_authority: Authority, hooks: Receiver, tmp_path: Path) -> Iterator[StartNotify]:
    """Prepares the command for the receiver; it ends with the test."""
    prepared: list[Notify] = []

    def prepare_one(**fields: Any) -> Notify:
        given = {
            "authority": key_authority,
            "folder": tmp_path,
            "url": hooks.url,
            "secrets": [SECRET],
        }
        prepared.append(Notify(**{**given, **fields}))
        return prepared[-1]

    yield prepare_one
    for one in prepared:
        one.close()


@pytest.fixture
def start(prepare: StartNotify) -> StartNotify:
    """Prepares the command and starts it."""

    def start_one(**fields: Any) -> Notify:
        notify = prepare(**fields)
        notify.start()
        return notify

    return start_one


def change(client: Client) -> str:
    """Make a change, and return the identity of its event."""
    project = client.create_project("Shop")
    created = client.create_key(project.project_id, mode="live", kind="secret")
    return f"{created.log_id}-{created.revision}"


async def until_taken(hooks: Receiver, *event_ids: str) -> None:
    """Wait until these events have been answered with 2xx."""
    await until(lambda: set(event_ids) <= hooks.taken.keys())


Sending = Callable[..., AbstractAsyncContextManager["asyncio.Task[None]"]]


@pytest.fixture
def given(key_authority: Authority, hooks: Receiver, tmp_path: Path) -> dict[str, Any]:
    """The settings of `sending`."""
    secrets = tmp_path / "secrets"
    secrets.write_text(SECRET, encoding="ascii")
    return {
        "connect": lambda key: AsyncClient(key_authority.address, operator_key=key),
        "read_key": lambda: key_authority.operator_key,
        "webhook": hooks.url,
        "secret_file": secrets,
        "cursor_file": tmp_path / "cursor",
        "allow_private": True,
        "allow_plaintext": False,
    }


@pytest.fixture
def sending(given: dict[str, Any]) -> Sending:
    """Sends events to the receiver from the event loop of the test, then drains."""

    @asynccontextmanager
    async def send(**fields: Any) -> AsyncIterator[asyncio.Task[None]]:
        ready, stopped = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(deliver(Settings(**{**given, **fields}), ready.set, stopped))
        await until(lambda: ready.is_set() or running.done())
        try:
            yield running
        finally:
            stopped.set()
            await running

    return send


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of a fraction of a second; `test_outbox` shows those of the product."""
    monkeypatch.setattr(outbox, "DELAYS", (0.05,) * 400)
    monkeypatch.setattr(sender, "THROTTLE_SECONDS", 0.05)
