"""Changes at a steady rate beside a load, made by a process on the load's core.

`python -m benchmarks.steady_changes keys ADDRESS PROJECT_ID OPERATOR_KEY_FILE [CA]` creates,
updates and revokes keys in turn, which no load verifies. `… puts ADDRESS` puts other keys into
etcd. Each line of the input is a rate per second; an empty line ends the stretch. A change is sent
at its scheduled time, even if the previous one is unanswered.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeVar

import grpc

from benchmarks.authority import Authority
from benchmarks.etcd import PUT, VALUE, put_request
from benchmarks.run import Measure, Run
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority.v1 import key_pb2

READY: Final = "ready"
SEEDS: Final = 50  # keys to update and revoke, before the first is created
_SERVICE: Final = "/keyauthority.v1.KeyAuthorityService"
_SECONDS: Final = 30  # until a change has to be answered
_KINDS: Final = 3

M = TypeVar("M", bound=Measure)
Change = Callable[[], Any]
"""Sends a change, and returns its future."""


class Made(NamedTuple):
    """The outcome of one stretch of changes."""

    made: int
    answered: int
    """Those that were answered before the load had ended."""
    failed: int
    seconds: float
    error: str
    """The first failure."""


class ChangesFailed(Exception):
    """A change beside the load was refused or failed."""


class SteadyChanges:
    """The process that makes changes."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        """Use a process that is ready."""
        self._process = process

    @contextmanager
    def beside(self, rate: float) -> Iterator[list[Made]]:
        """Make changes while the context lasts; the list has their outcome after it."""
        outcome: list[Made] = []
        self._tell(f"{rate}\n")
        try:
            yield outcome
        finally:  # a load that failed ends its stretch too
            self._tell("\n")
            assert self._process.stdout
            outcome.append(Made(*json.loads(self._process.stdout.readline())))
        if outcome[0].failed:
            made, _, failed, _, error = outcome[0]
            raise ChangesFailed(f"{failed} of {made} changes failed: {error}")

    def _tell(self, line: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(line)
        self._process.stdin.flush()


@dataclass
class UnderChanges(Generic[M]):
    """Measures something with changes beside it, if there are any."""

    measure: M
    changer: SteadyChanges | None = None
    rate: float = 0
    """Changes per second."""
    answered: list[float] = field(default_factory=list)
    """Changes per second that were answered in each round."""

    def __call__(self) -> float:
        """Measure one round."""
        if self.changer is None or not self.rate:
            return self.measure()
        with self.changer.beside(self.rate) as outcome:
            measured = self.measure()
        self.answered.append(outcome[0].answered / outcome[0].seconds)
        return measured


@contextmanager
def changing_keys(run: Run, authority: Authority) -> Iterator[SteadyChanges]:
    """Start the process that changes keys of an authority."""
    server = authority.server
    arguments = [server.address, authority.project_id, str(server.data / "operator.key")]
    with changing(run, "keys", *arguments, *([str(authority.ca)] if authority.ca else [])) as made:
        yield made


@contextmanager
def changing(run: Run, *arguments: str) -> Iterator[SteadyChanges]:
    """Start the process on the load's core; it ends with the context."""
    command = [*run.pinned(run.load_core), sys.executable, "-m", __name__, *arguments]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout
        if process.stdout.readline().strip() != READY:
            raise ChangesFailed(f"{arguments[0]}: the process has ended")
        yield SteadyChanges(process)
        assert process.stdin
        process.stdin.close()


def main(arguments: Sequence[str]) -> None:
    """Make changes as the input says."""
    kind, address, *more = arguments
    ca = Path(more[2]).read_bytes() if len(more) > 2 else None
    with _channel(address, ca) as channel:
        change = _key_changes(channel, *more[:2]) if kind == "keys" else _puts(channel)
        print(READY, flush=True)
        while line := sys.stdin.readline():
            print(json.dumps(_stretch(change, float(line), sys.stdin.readline)), flush=True)


def _stretch(change: Change, rate: float, until: Callable[[], object]) -> Made:
    """Make changes at a rate until `until` returns."""
    ended = threading.Event()
    calls: list[Any] = []
    begun = time.monotonic()

    def make() -> None:
        while not ended.wait(max(begun + len(calls) / rate - time.monotonic(), 0)):
            calls.append(change())

    thread = threading.Thread(target=make)
    thread.start()
    until()
    answered = sum(call.done() for call in calls)
    seconds = time.monotonic() - begun
    ended.set()
    thread.join()
    failures = [call for call in calls if call.exception() is not None]
    error = f"{failures[0].code().name} {failures[0].details()}" if failures else ""
    return Made(len(calls), answered, len(failures), seconds, error)


def _channel(address: str, ca: bytes | None) -> grpc.Channel:
    if ca is None:
        return grpc.insecure_channel(address)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(ca))


def _puts(channel: grpc.Channel) -> Change:
    call: Any = channel.unary_unary(PUT)
    turn = 0

    def change() -> Any:
        nonlocal turn
        turn += 1
        return call.future(put_request(f"changed-{turn % SEEDS}", VALUE), timeout=_SECONDS)

    return change


def _key_changes(channel: grpc.Channel, project_id: str, key_file: str) -> Change:
    """Return a function that creates, updates and revokes keys in turn."""
    metadata = (("x-auth-token", Path(key_file).read_text(encoding="ascii").strip()),)
    names: deque[str] = deque()
    turn = 0
    created = pb.CreateKeyRequest(
        project_id=project_id,
        mode=key_pb2.KEY_MODE_LIVE,
        kind=key_pb2.KEY_KIND_SECRET,
        purpose="made beside the load",
    )

    def send(method: str, request: Any) -> Any:
        response = getattr(pb, f"{method}Response")
        call: Any = channel.unary_unary(
            f"{_SERVICE}/{method}", type(request).SerializeToString, response.FromString
        )
        return call.future(request, metadata=metadata, timeout=_SECONDS)

    def note(call: Any) -> None:
        if call.exception() is None:
            names.append(call.result().key.access_key)

    def create() -> Any:
        call = send("CreateKey", created)
        call.add_done_callback(note)
        return call

    def change() -> Any:
        nonlocal turn
        turn += 1
        if turn % _KINDS == 0 or len(names) < _KINDS:
            return create()
        if turn % _KINDS == 1:
            request = pb.UpdateKeyRequest(access_key=names[-1], purpose=f"updated {turn}")
            request.update_mask.paths.append("purpose")
            return send("UpdateKey", request)
        return send("RevokeKey", pb.RevokeKeyRequest(access_key=names.popleft()))

    for call in [create() for _ in range(SEEDS)]:
        call.result()
    return change


if __name__ == "__main__":
    main(sys.argv[1:])
