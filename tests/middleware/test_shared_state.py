"""State that a server shares between requests carries no caller from one to another.

The control writes the caller into that state, as the guards must not, and is seen to fail.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

import pytest

from keyauthority import Client
from keyauthority.middleware.asgi import Message, Scope
from keyauthority.testing import Authority
from tests.middleware import served_asgi

GUARDS: Final = ("middleware", "dependency", "both", "nested")


def unlimited_key(client: Client, project_id: str) -> tuple[str, str]:
    """The access key and the secret of a key without a limit."""
    created = client.create_key(
        project_id, mode="test", kind="restricted", permissions=["orders:read"]
    )
    return created.key.access_key, created.secret_key.reveal()


class SharedState:
    """A server that shares one state between all its requests, in this process."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}

    async def get(self, guard: str, path: str, key: str) -> str:
        """The body of an answer."""
        sent: list[Message] = []

        async def receive() -> Message:
            return {"type": "http.request"}

        async def send(message: Message) -> None:
            sent.append(message)

        scope: Scope = {
            "type": "http",
            "method": "GET",
            "path": path,
            "query_string": b"meet=",
            "headers": [
                (b"x-cell", f"app-{guard}-off".encode()),
                *([(b"x-api-key", key.encode())] if key else []),
            ],
            "client": None,
            "state": self.state,
        }
        await served_asgi.app(scope, receive, send)
        return b"".join(message.get("body", b"") for message in sent).decode()


@pytest.mark.parametrize("guard", [*GUARDS, "control"])
async def test_shared_server_state_is_left_unchanged(
    guard: str,
    key_authority: Authority,
    project_id: str,
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No caller remains in it for a concurrent or later request."""
    server, keys = SharedState(), dict(unlimited_key(client, project_id) for _ in range(2))
    async with key_authority.async_client() as verifier:
        monkeypatch.setattr(served_asgi, "OPENED", {"verifier": verifier})
        monkeypatch.setattr(served_asgi, "MEETING", asyncio.Barrier(2))
        answers = await asyncio.gather(*[server.get(guard, "/who", key) for key in keys.values()])
        opened = await server.get(guard, "/open", "")
    right = all(
        access_key in answer for access_key, answer in zip(keys, answers, strict=True)
    ) and not any(access_key in opened for access_key in keys)
    assert right is (guard != "control")
    assert ({} == server.state) is (guard != "control")
