"""How many Python functions a gRPC call runs, and over how many of the project's files."""

from __future__ import annotations

import asyncio
import sys
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any, Final

from google.protobuf.message import Message

from benchmarks.authority import SERVICE
from benchmarks.figures import Part
from benchmarks.run import Run
from benchmarks.stores import NEEDED, filled
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority.v1 import key_pb2
from keyauthority_server import rpc
from keyauthority_server.rpc_types import Call
from keyauthority_server.runtime import bootstrap

_ROOT: Final = Path(__file__).parents[2]
_PROJECT: Final = tuple(str(_ROOT / folder) for folder in ("client", "server"))
_ROUNDS: Final = 5
_COLD: Final = "Verify, key not in memory"
_WARM: Final = "Verify, key in memory, another question"
_REPEATED: Final = "Verify, the same question again"
_CREATED: Final = "CreateKey"
_FIRST: Final = "first of all"  # not reported: it imports and prepares
_TEXT: Final = """\
Calls of the project's own Python functions in one gRPC call on SQLite, in all threads, counted with
a profile hook from the request's bytes to the answer's, and the files that these functions are in.
The transport is not counted. Each question needs a permission and has a client address; CreateKey
has a request_id, as clients send it."""


def measure(run: Run) -> Part:
    """Count the calls of each kind of gRPC call, several times."""
    part = Part("Python calls", _TEXT)
    with _Counter().installed() as counter:
        asyncio.run(_count(run, counter))
    for name, counted in counter.counted.items():
        part.add("calls", {name: [calls for calls, _ in counted]})
        part.add("files", {f"{name}: files": [files for _, files in counted]})
    return part


class _Counter:
    """A profile hook for all threads that are started while it is installed."""

    def __init__(self) -> None:
        self._files: list[str] | None = None
        self.counted: dict[str, list[tuple[int, int]]] = {}

    @contextmanager
    def installed(self) -> Iterator[_Counter]:
        """Hook this thread and those that it starts."""
        threading.setprofile(self._note)
        sys.setprofile(self._note)
        try:
            yield self
        finally:
            sys.setprofile(None)
            threading.setprofile(None)

    @contextmanager
    def counting(self, name: str) -> Iterator[None]:
        """Count under a name while the context lasts."""
        files: list[str] = []
        self._files = files
        yield
        self._files = None
        ours = [file for file in files if file.startswith(_PROJECT)]
        self.counted.setdefault(name, []).append((len(ours), len(set(ours))))

    def _note(self, frame: FrameType, event: str, _: Any) -> None:
        files = self._files
        if files is not None and event == "call":
            files.append(frame.f_code.co_filename)


async def _count(run: Run, counter: _Counter) -> None:
    store = await filled(run.folder, 2 * _ROUNDS)
    settings = store.settings
    operator_key = (settings.data / bootstrap.OPERATOR_KEY).read_text(encoding="ascii").strip()
    call = Call((("x-auth-token", operator_key),), "ipv4:127.0.0.1:1")
    numbers = count(1)
    async with bootstrap.open_authority(settings, checkpoints=True) as authority:
        methods: Any = rpc.services(authority, None)[SERVICE.strip("/")]

        async def ask(name: str, method: str, request: Message) -> bytes:
            body = request.SerializeToString()
            with counter.counting(name):
                answer: bytes = await methods[method](body, call)
            return answer

        async def verify(name: str, token: str, number: int) -> None:
            request = pb.VerifyRequest(
                secret_key=token, permissions=[NEEDED], client_ip=f"10.0.0.{number}"
            )
            answer = pb.VerifyResponse.FromString(await ask(name, "Verify", request))
            assert answer.valid, answer

        async def create(name: str) -> None:
            request = pb.CreateKeyRequest(
                project_id=store.project_id,
                mode=key_pb2.KEY_MODE_LIVE,
                kind=key_pb2.KEY_KIND_SECRET,
                request_id=str(uuid.uuid4()),
            )
            await ask(name, "CreateKey", request)

        await verify(_FIRST, store.tokens[-1], next(numbers))
        await create(_FIRST)
        for token in store.tokens[:_ROUNDS]:
            await create(_CREATED)
            await verify(_COLD, token, next(numbers))
            number = next(numbers)
            await verify(_WARM, token, number)
            await verify(_REPEATED, token, number)
    del counter.counted[_FIRST]
