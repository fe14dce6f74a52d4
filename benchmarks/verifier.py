"""The in-process verifier: its rate beside remote Verify's, its memory, and how soon it knows.

Run by `make bench-verifier`. The server has one core, this process another. Times are those of a
caller: from when RevokeKey and its like were answered to the first verdict that knows.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from keyauthority import Client, CreatedKey, KeyKind, KeyMode, Restrictions, Verdict, Verifier
from keyauthority.convert import key_from_proto, key_to_proto
from keyauthority.decision import judged
from keyauthority.model import Facts, Key, Project
from keyauthority.requests import Presentation
from keyauthority.results import WatchUpdate
from keyauthority.token import make, new_access_key, new_secret
from keyauthority.verifier.judging import Judge

SERVER_CORE: Final = 0
OWN_CORE: Final = 1
KEYS: Final = 200
NEEDED: Final = ["orders:read"]
ADDRESS: Final = "10.1.2.3"
ROUNDS: Final = 7
_NONE: Final = timedelta(0)
ALLOWED: Final = Restrictions(allowed_ips=("10.0.0.0/8", "2001:db8::/32"))


def main() -> None:
    """Measure, and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--cases", type=int, default=10_000, help="changes that are timed")
    options.add_argument("--memory-keys", type=int, default=100_000)
    given = options.parse_args()
    os.sched_setaffinity(0, {OWN_CORE})
    with (
        tempfile.TemporaryDirectory() as folder,
        _client(Path(folder) / "data") as client,
        Verifier(client) as verifier,
    ):
        verifier.wait_until_fresh(10)
        project_id = client.create_project("bench").project_id
        _rates(client, verifier, [_create(client, project_id) for _ in range(KEYS)])
        _freshness(client, verifier, project_id, given.cases)
    _memory(given.memory_keys)


def _create(client: Client, project_id: str) -> CreatedKey:
    return client.create_key(
        project_id, mode="live", kind="restricted", permissions=NEEDED, restrictions=ALLOWED
    )


def _rates(client: Client, verifier: Verifier, created: Sequence[CreatedKey]) -> None:
    tokens = [one.secret_key.reveal() for one in created]
    remote = _rate(
        lambda token: client.verify(token, permissions=NEEDED, client_ip=ADDRESS), tokens
    )
    here = _rate(
        lambda token: verifier.verify(token, permissions=NEEDED, client_ip=ADDRESS), tokens * 100
    )
    spans = []
    for token in tokens * 100:
        begun = time.perf_counter_ns()
        verifier.verify(token, permissions=NEEDED, client_ip=ADDRESS)
        spans.append(time.perf_counter_ns() - begun)
    p50, p99, _ = (span / 1_000 for span in _quantiles(spans))
    print(f"{len(tokens)} keys in turn, permission and address checked, one thread")
    print(f"  remote Verify  {remote:10,.0f} /s")
    print(f"  in process     {here:10,.0f} /s   {here / remote:.0f} times as many")
    print(f"  in process     p50 {p50:.1f} µs   p99 {p99:.1f} µs")


def _rate(verify: Callable[[str], Verdict], tokens: Sequence[str]) -> float:
    """Return the best round's: what else runs on the machine only slows it."""
    best = 0.0
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        for token in tokens:
            verify(token)
        best = max(best, len(tokens) / (time.perf_counter() - begun))
        assert verify(tokens[0]).valid
    return best


def _freshness(client: Client, verifier: Verifier, project_id: str, cases: int) -> None:
    changes: dict[str, Callable[[CreatedKey], object]] = {
        "revoke": lambda one: client.revoke_key(one.key.access_key),
        "disable": lambda one: client.update_key(one.key.access_key, disabled=True),
        "narrow": lambda one: client.update_key(one.key.access_key, permissions=["other:read"]),
        "suspend": lambda one: client.update_project(one.key.project_id, suspended=True),
        "rotate": lambda one: client.rotate_key(one.key.access_key, overlap=_NONE),
    }
    everything: list[float] = []
    print(f"{cases:,} changes, from the answer to the verifier's (ms)")
    for name, change in changes.items():
        spans = []
        for _ in range(cases // len(changes)):
            own = client.create_project().project_id if name == "suspend" else project_id
            created = _create(client, own)
            token = created.secret_key.reveal()
            verifier.verify(token, permissions=NEEDED, client_ip=ADDRESS)
            change(created)
            begun = time.perf_counter()
            while verifier.verify(token, permissions=NEEDED, client_ip=ADDRESS).valid:
                time.sleep(0)  # the watch has its turn
            spans.append((time.perf_counter() - begun) * 1_000)
        everything += spans
        _print_spans(name, spans)
    _print_spans("all", everything)


def _print_spans(name: str, spans: list[float]) -> None:
    p50, p99, worst = _quantiles(spans)
    print(f"  {name:10} p50 {p50:7.2f}   p99 {p99:7.2f}   worst {worst:7.2f}")


def _quantiles(spans: Sequence[float]) -> tuple[float, float, float]:
    spans = sorted(spans)
    return spans[len(spans) // 2], spans[len(spans) * 99 // 100], spans[-1]


def _memory(keys: int) -> None:
    """What keys take that the server has told of, each with an answer that is remembered."""
    now = datetime.now(UTC)
    project_id = "2f3bfb4f-0f4e-4a5e-8f0b-0d7b2f1c9a10"
    project = Project(project_id=project_id, create_time=now, update_time=now, revision=1)
    judge = Judge(keys, bound=1e6)
    judge.resume(0.0)
    judge.take(
        WatchUpdate(
            changes=(),
            revision=1,
            log_id="log",
            checkpoint=True,
            resync=False,
            server_time=now,
            lag=_NONE,
        ),
        0.0,
    )
    tracemalloc.start()
    for _ in range(keys):
        access_key = new_access_key()
        token = make(KeyKind.RESTRICTED, KeyMode.LIVE, access_key, new_secret()).reveal()
        asked = Presentation(token, Facts(permissions=tuple(NEEDED), client_ip=ADDRESS))
        wanted = asked._replace(include_record=True)
        judge.learn(wanted, judged(_received(access_key, project), project, wanted, now, 1, "log"))
        assert judge.judge(asked, 1.0) is not None
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(
        f"memory at {keys:,} keys: {taken / keys:,.0f} bytes a key, its answer and count included"
    )


def _received(access_key: str, project: Project) -> Key:
    """Return a key as it comes off the wire: nothing of it is shared with another."""
    time = project.create_time
    key = Key(
        access_key=access_key,
        project_id=project.project_id,
        mode=KeyMode.LIVE,
        kind=KeyKind.RESTRICTED,
        purpose="nightly export",
        permissions=tuple(NEEDED),
        restrictions=ALLOWED,
        create_time=time,
        update_time=time,
        expire_time=time + timedelta(days=90),
        created_by=new_access_key(),
        created_from="127.0.0.1",
        revision=1,
    )
    return key_from_proto(key_to_proto(key))


@contextmanager
def _client(data: Path) -> Iterator[Client]:
    command = ["taskset", "-c", str(SERVER_CORE), sys.executable, "-m", "keyauthority_server"]
    command += ["serve", "--data", str(data), "--listen", "127.0.0.1:0", "--log-level", "warning"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip().rpartition(" ")[2]
            operator_key = (data / "operator.key").read_text().strip()
            with Client(address, operator_key=operator_key) as client:
                yield client
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
