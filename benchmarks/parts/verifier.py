"""The in-process verifier: its rate beside remote Verify's, its memory, and how soon it knows."""

from __future__ import annotations

import asyncio
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import cycle, islice
from typing import Final

from benchmarks.authority import ALLOWED, ASKED, Authority, serving
from benchmarks.figures import Part, quantile
from benchmarks.questions import ADDRESSES, Question, make_keys, questions
from benchmarks.run import Measure, Run, on_core, take_turns
from benchmarks.steady_changes import UnderChanges, changing_keys
from keyauthority import AsyncClient, AsyncVerifier, CreatedKey, KeyKind, KeyMode, Verdict, Verifier
from keyauthority.convert import key_from_proto, key_to_proto
from keyauthority.decision import build_verdict
from keyauthority.model import Facts, Key, Project
from keyauthority.requests import VerifyQuery
from keyauthority.results import WatchUpdate
from keyauthority.token import make, new_access_key, new_secret
from keyauthority.verifier.evaluator import LocalEvaluator

_KEYS: Final = 5_000
_EACH: Final = 10  # questions for each key, before they come again
_CHANGES: Final = 10  # per second, of other keys
_TURNS: Final = 3  # a turn is so many times as long as in other parts: changes need their time
_REPEATED: Final = 200  # keys of the best case
_A_TURN: Final = 100  # verifications between two turns of the event loop
_AT_ONCE: Final = 1_000  # verifications between two looks at the clock
_NONE: Final = timedelta(0)
_SEEN: Final = 400  # addresses a case: 200,000 unless `--cases` says otherwise
_HERE: Final = f"verified in the process, {_CHANGES} changes/s"
_TASKS: Final = f"verified in the process by `AsyncVerifier`, {_CHANGES} changes/s"
_STILL: Final = "verified in the process, no changes"
_BEST: Final = "best case: the same questions again and again, no changes"
_REMOTE: Final = f"remote Verify of such questions, the same client, {_CHANGES} changes/s"
_FACTS: Final = Facts(permissions=ASKED["permissions"], client_ip=ASKED["client_ip"])
_TEXT: Final = f"""\
Verifications per second by one thread on one core; the server has another. Questions are about keys
drawn from {_KEYS:,}, each with another client address, every second with a needed permission, while
other keys are created, updated and revoked. The best case has the same {_REPEATED} keys in turn,
always with the same permission and address. A change's time is from its answer to the verifier's
first verdict that knows. Memory is what Python allocates for a key, with its verdict and its
count, and for many further verifications of it, each with another client address."""


def measure(run: Run) -> Part:
    """Measure rate, freshness and memory."""
    part = Part("In-process verifier", _TEXT)
    keys = make_keys(run)
    tokens = keys.plain[:_KEYS]
    asked = list(questions(tokens, len(tokens) * _EACH))
    with (
        serving(run, "verifier", data_from=keys.store.settings.data) as authority,
        on_core(run.load_core),
        changing_keys(run, authority) as changer,
        Verifier(authority.client) as verifier,
        _in_tasks(authority) as in_tasks,
    ):
        verifier.wait_until_fresh(10)
        repeated = [
            Question(authority.strict().secret_key.reveal(), **ASKED) for _ in range(_REPEATED)
        ]
        for token in tokens:
            verifier.verify(token)
        in_tasks.learn(tokens)
        varied = _rate(run, verifier.verify, asked, _AT_ONCE)
        remote = _rate(run, authority.client.verify, asked, 1)
        sides: dict[str, Measure] = {
            _HERE: UnderChanges(varied, changer, _CHANGES),
            _TASKS: UnderChanges(in_tasks.rate(run, asked), changer, _CHANGES),
            _STILL: varied,
            _REMOTE: UnderChanges(remote, changer, _CHANGES),
            _BEST: _rate(run, verifier.verify, repeated, _AT_ONCE),
        }
        part.add("/s", take_turns(sides, run.rounds))
        with changer.beside(_CHANGES):
            spans = {_HERE: _spans(verifier, asked), _TASKS: in_tasks.spans(asked)}
        for name, taken in spans.items():
            for share, word in ((0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")):
                part.add("µs", {f"{name}, {word}": [quantile(taken, share) / 1e3]})
        for name, times in _changes(authority, verifier, run.cases).items():
            for share, word in ((0.5, "p50"), (0.99, "p99"), (1, "worst")):
                part.add("ms", {f"{name}, {word}": [quantile(times, share)]})
    cases = max(run.cases, 1)
    a_key, addresses = _memory(cases * 10, cases * _SEEN)
    part.add("bytes", {"memory of a key": [a_key]})
    part.add("bytes", {f"memory of {cases * _SEEN:,} addresses": [addresses]})
    part.compare("in the process to remote", _HERE, _REMOTE, "≥ 100")
    part.compare("`AsyncVerifier` to `Verifier`", _TASKS, _HERE)
    part.compare(f"{_CHANGES} changes/s to none", _HERE, _STILL)
    part.compare("other questions to the same ones", _STILL, _BEST)
    return part


def _rate(
    run: Run, verify: Callable[..., Verdict], asked: Sequence[Question], at_once: int
) -> Measure:
    ring = cycle([(question.token, question.asked) for question in asked])

    def measure() -> float:
        begun, number, valid = time.perf_counter(), 0, 0
        while (taken := time.perf_counter() - begun) < _TURNS * run.seconds:
            for token, facts in islice(ring, at_once):
                valid += verify(token, **facts).valid
            number += at_once
        assert valid == number
        return number / taken

    return measure


class _InTasks:
    """An `AsyncVerifier` in an event loop of its own thread, which is idle unless measured."""

    def __init__(self, verifier: AsyncVerifier, loop: asyncio.AbstractEventLoop) -> None:
        self._verifier = verifier
        self._loop = loop

    def learn(self, tokens: Sequence[str]) -> None:
        """Verify each token once."""

        async def learn() -> None:
            for token in tokens:
                await self._verifier.verify(token)

        asyncio.run_coroutine_threadsafe(learn(), self._loop).result()

    def rate(self, run: Run, asked: Sequence[Question]) -> Measure:
        """Measure verifications per second; the watch has its turn every millisecond."""
        ring = cycle([(question.token, question.asked) for question in asked])

        async def measure() -> float:
            begun, number, valid = time.perf_counter(), 0, 0
            while (taken := time.perf_counter() - begun) < _TURNS * run.seconds:
                for token, facts in islice(ring, _A_TURN):
                    valid += (await self._verifier.verify(token, **facts)).valid
                number += _A_TURN
                await asyncio.sleep(0)
            assert valid == number
            return number / taken

        return lambda: asyncio.run_coroutine_threadsafe(measure(), self._loop).result()

    def spans(self, asked: Sequence[Question]) -> list[int]:
        """Return the nanoseconds of each verification."""

        async def measure() -> list[int]:
            spans = []
            for token, facts in [(question.token, question.asked) for question in asked]:
                begun = time.perf_counter_ns()
                await self._verifier.verify(token, **facts)
                spans.append(time.perf_counter_ns() - begun)
                if len(spans) % _A_TURN == 0:
                    await asyncio.sleep(0)
            return spans

        return asyncio.run_coroutine_threadsafe(measure(), self._loop).result()


@contextmanager
def _in_tasks(authority: Authority) -> Iterator[_InTasks]:
    """Open an `AsyncVerifier`."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def opened() -> AsyncVerifier:
        server = authority.server
        client = AsyncClient(server.address, operator_key=server.operator_key)
        verifier = AsyncVerifier(client)
        await verifier.__aenter__()
        await verifier.wait_until_fresh(10)
        return verifier

    verifier = asyncio.run_coroutine_threadsafe(opened(), loop).result()
    try:
        yield _InTasks(verifier, loop)
    finally:
        asyncio.run_coroutine_threadsafe(verifier.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _spans(verifier: Verifier, asked: Sequence[Question]) -> list[int]:
    """Return the nanoseconds of each verification."""
    spans = []
    for token, facts in [(question.token, question.asked) for question in asked]:
        begun = time.perf_counter_ns()
        verifier.verify(token, **facts)
        spans.append(time.perf_counter_ns() - begun)
    return spans


def _changes(authority: Authority, verifier: Verifier, cases: int) -> dict[str, list[float]]:
    """Return the delay until the verifier knows a change, in ms, by kind of change."""
    client = authority.client
    changes: dict[str, Callable[[CreatedKey], object]] = {
        "revoked": lambda one: client.revoke_key(one.key.access_key),
        "disabled": lambda one: client.update_key(one.key.access_key, disabled=True),
        "narrowed": lambda one: client.update_key(one.key.access_key, permissions=["other:read"]),
        "project suspended": lambda one: client.update_project(one.key.project_id, suspended=True),
        "rotated": lambda one: client.rotate_key(one.key.access_key, overlap=_NONE),
    }
    times: dict[str, list[float]] = {name: [] for name in changes}
    for name, change in changes.items():
        for _ in range(max(cases // len(changes), 1)):
            times[name].append(_until_known(authority, verifier, change))
    return times


def _until_known(
    authority: Authority, verifier: Verifier, change: Callable[[CreatedKey], object]
) -> float:
    created = authority.client.create_key(
        authority.client.create_project().project_id,
        mode="live",
        kind="restricted",
        permissions=ASKED["permissions"],
        restrictions=ALLOWED,
    )
    token = created.secret_key.reveal()
    assert verifier.verify(token, **ASKED).valid
    change(created)
    begun = time.perf_counter()
    while verifier.verify(token, **ASKED).valid:
        time.sleep(0)  # the watch has its turn
    return (time.perf_counter() - begun) * 1e3


def _memory(keys: int, addresses: int) -> tuple[float, float]:
    """Return the bytes per cached key, its verdict included, and those of so many addresses."""
    asked = VerifyQuery("")
    now = datetime.now(UTC)
    project = Project(
        project_id="2f3bfb4f-0f4e-4a5e-8f0b-0d7b2f1c9a10",
        create_time=now,
        update_time=now,
        revision=1,
    )
    judge = LocalEvaluator(keys, bound=1e6)
    judge.resume(0.0)
    update = WatchUpdate(
        changes=(),
        revision=1,
        log_id="log",
        checkpoint=True,
        resync=False,
        server_time=now,
        lag=_NONE,
    )
    judge.apply(update, 0.0)
    tracemalloc.start()
    for _ in range(keys):
        access_key = new_access_key()
        token = make(KeyKind.RESTRICTED, KeyMode.LIVE, access_key, new_secret()).reveal()
        asked = VerifyQuery(token, _FACTS)
        wanted = asked._replace(include_record=True)
        judge.learn(
            wanted, build_verdict(_received(access_key, project), project, wanted, now, 1, "log")
        )
        assert judge.evaluate(asked, 1.0) is not None
    taken, _ = tracemalloc.get_traced_memory()
    a_key = taken / keys
    _see(judge, asked, _A_TURN * _A_TURN)  # fills the free lists of the interpreter
    before, _ = tracemalloc.get_traced_memory()
    _see(judge, asked, addresses)
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return a_key, after - before


def _see(judge: LocalEvaluator, asked: VerifyQuery, addresses: int) -> None:
    """Verify a key from so many addresses."""
    for number in range(addresses):
        client_ip = "10." + ".".join(map(str, (number % ADDRESSES).to_bytes(3)))
        judge.evaluate(asked._replace(facts=_FACTS._replace(client_ip=client_ip)), 1.0)


def _received(access_key: str, project: Project) -> Key:
    """Return a key as it comes off the wire: nothing of it is shared with another."""
    time_made = project.create_time
    key = Key(
        access_key=access_key,
        project_id=project.project_id,
        mode=KeyMode.LIVE,
        kind=KeyKind.RESTRICTED,
        purpose="nightly export",
        permissions=_FACTS.permissions,
        restrictions=ALLOWED,
        create_time=time_made,
        update_time=time_made,
        expire_time=time_made + timedelta(days=90),
        created_by=new_access_key(),
        created_from="127.0.0.1",
        revision=1,
    )
    return key_from_proto(key_to_proto(key))
