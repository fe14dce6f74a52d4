"""kill -9 at random moments, a receiver of every kind of answer, a name that rebinds: none lost."""

from __future__ import annotations

import hashlib
import random
import threading
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

import pytest

from keyauthority import Client, ImportedKey, ImportScheme, ImportSet, KeyKind, KeyMode
from keyauthority.notify.sender import NEW_SLOTS, RETRY_SLOTS
from tests.notify.conftest import StartNotify, change
from tests.notify.processes import NETWORK, SHORT_DELAYS, Notify
from tests.notify.receiver import OK, Receiver, Reply, receiver
from tests.proofs import PROVE, Proof
from tests.service.processes import wait_until

SHORT: Final = (80, 2, 0.5)
"""Events, kills at least, and the most seconds from a ready line to a kill, in `make test`."""
LONG: Final = (10_000 * PROVE, 1, 3.0)
BATCH: Final = 20  # changes of one call
BEHIND: Final = 1000  # changes whose events have not arrived; then the writer waits
NAME: Final = "hooks.test"
PUBLIC: Final = "93.184.215.14"
PRIVATE: Final = ("127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:93.184.215.14")
LOOKUPS: Final = 2000  # drawn for each start; later ones are public
DEADLINE: Final = 60.0  # seconds without a kill, on a machine that is busy

FORGETFUL: Final = """
real = outbox.Outbox.take


def take(self, position, events):
    append = self._journal.append
    self._journal.append = lambda *operations: append(operations[0])
    try:
        real(self, position, events)
    finally:
        self._journal.append = append


outbox.Outbox.take = take
"""
"""The fault: the position is written, and the events before it are not."""


@dataclass
class Storm:
    """Answers by lot. A lot is drawn from the event and the number of its request."""

    trap: str
    """The URL of redirects."""
    drawn: int = 0
    """A seed."""
    answered: dict[str, int] = field(default_factory=dict)

    def answer(self, event_id: str, number: int) -> Reply:
        """Fail in turn, more seldom at later requests."""
        lot = hashlib.sha256(f"{self.drawn} {event_id} {number}".encode()).digest()
        if lot[0] < 192 or number > 4:
            return OK
        slow = Reply(wait=lambda: threading.Event().wait(lot[2] / 1000))
        replies = {
            "500": Reply(500),
            "429": Reply(429),
            "503": Reply(503, {"retry-after": "0"}),
            "redirect": Reply(302 + 5 * (lot[3] % 2), {"location": self.trap}),
            "slow": slow,
            "slow failure": slow._replace(status=500),
            "gone": Reply(410),
        }
        # 410 ends the command, which is started again: seldom, so that others have a chance.
        kind = "gone" if lot[1] == 0 else list(replies)[lot[1] % (len(replies) - 1)]
        self.answered[kind] = self.answered.get(kind, 0) + 1
        return replies[kind]


def import_keys(client: Client, project_id: str, count: int) -> tuple[str, int]:
    """Make as many changes by one call; return the log and the revision of the last one."""
    shape = ImportSet(
        name="storm",
        scheme=ImportScheme.SHA256_HEX,
        token_prefix="storm_",
        token_length_min=10,
        token_length_max=20,
    )
    done = client.import_keys(
        shape,
        [
            ImportedKey(
                digest=uuid.uuid4().hex * 2,
                project_id=project_id,
                mode=KeyMode.TEST,  # which has no advisory
                kind=KeyKind.SECRET,
            )
            for _ in range(count)
        ],
    )
    return done.log_id, done.revision


def lookups(drawn: random.Random) -> Iterator[Sequence[str]]:
    """Return the answers to the look-ups of a start: now public, now private, at last public."""
    yield [PUBLIC]  # the check at the start
    for _ in range(LOOKUPS):
        yield [drawn.choice(PRIVATE)] if drawn.random() < 0.1 else [PUBLIC]
    yield [PUBLIC]


def storm(
    notify: Notify,
    client: Client,
    hooks: Receiver,
    drawn: random.Random,
    events: int,
    kills: int,
    latest: float,
) -> tuple[set[str], int]:
    """Make changes while the command is killed and started again; return their events and kills.

    `kills` is the least number; then it goes on until all changes are made.
    """
    project = client.create_project("Storm")
    notify.write_hosts({"*": [PUBLIC], NAME: list(lookups(drawn))})
    notify.start()
    log_id, first = import_keys(client, project.project_id, 1)

    def write() -> int:
        last = [first]
        for _ in range(0, events - 1, BATCH):
            wait_until(lambda: last[0] - first - len(hooks.taken) < BEHIND, DEADLINE)
            _, last[0] = import_keys(client, project.project_id, BATCH)
        return last[0]

    done = 0
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        while done < kills or not writing.done():
            threading.Event().wait(drawn.uniform(0, latest))
            notify.kill()
            done += 1
            notify.write_hosts({"*": [PUBLIC], NAME: list(lookups(drawn))})
            notify.start()
        last = writing.result()
    expected = {f"{log_id}-{revision}" for revision in range(first, last + 1)}

    def arrived() -> bool:
        assert notify.process
        if notify.process.poll() is not None:  # after an answer 410
            notify.wait()
            notify.start()
        return expected <= hooks.taken.keys()

    wait_until(arrived, DEADLINE)
    return expected, done


def check(notify: Notify, hooks: Receiver, expected: set[str], kills: int) -> int:
    """Check all that was received, and return the number of repeats."""
    taken = hooks.taken
    assert expected == taken.keys()
    bodies: dict[str, bytes] = {}
    for request in hooks.requests:
        assert request.body == bodies.setdefault(request.id, request.body)
        assert request.event["data"]["revision"] == request.id.rpartition("-")[2]
    assert {PUBLIC} == set(notify.traced("connect"))
    repeats = taken.total() - len(taken)
    assert repeats <= kills * (NEW_SLOTS + RETRY_SLOTS)  # those of attempts that were under way
    return repeats


def prepared(prepare: StartNotify, hooks: Receiver) -> Notify:
    """Return the command for a receiver at a name."""
    return prepare(
        url=f"http://{NAME}:{hooks.port}/hooks",
        flags=("--allow-plaintext",),
        shims=NETWORK + SHORT_DELAYS,
    )


def test_kills_lose_no_event_and_reach_no_refused_address(
    prepare: StartNotify, client: Client, hooks: Receiver
) -> None:
    """Repeats are recognisable, and there are no more than attempts that a kill ended."""
    notify, drawn = prepared(prepare, hooks), random.Random()
    with receiver() as trap:
        lots = Storm(trap.url, drawn.randrange(2**32))
        hooks.answer = lots.answer
        expected, kills = storm(notify, client, hooks, drawn, *SHORT)
        check(notify, hooks, expected, kills)
        assert [] == trap.requests
    assert 0 == notify.stop()


def test_events_that_are_not_in_the_cursor_file_are_lost_by_a_kill(
    prepare: StartNotify, client: Client, hooks: Receiver
) -> None:
    """The control: with the fault brought back the same comparison finds lost events."""
    notify = prepare(shims=SHORT_DELAYS + FORGETFUL)
    notify.start()
    released = threading.Event()
    hooks.answer = lambda event_id, number: Reply(wait=released.wait)
    project = client.create_project("Control")
    log_id, last = import_keys(client, project.project_id, 60)
    wait_until(lambda: NEW_SLOTS == len(hooks.requests) and str(last) in notify.cursor.read_text())
    notify.kill()
    released.set()
    hooks.answer = lambda event_id, number: OK
    notify.start()
    hooks.wait_for(change(client))
    expected = {f"{log_id}-{revision}" for revision in range(last - 59, last + 1)}
    assert 0 < len(expected - hooks.taken.keys())


@pytest.mark.prove
@pytest.mark.timeout(300 * max(PROVE, 1))
def test_many_kills_lose_no_event(
    prepare: StartNotify, client: Client, hooks: Receiver, proof: Proof
) -> None:
    """10,000 events, with every answer and address many times."""
    notify, drawn = prepared(prepare, hooks), random.Random(seed := random.randrange(2**32))
    with receiver() as trap:
        lots = Storm(trap.url, seed)
        hooks.answer = lots.answer
        expected, kills = storm(notify, client, hooks, drawn, *LONG)
        repeats = check(notify, hooks, expected, kills)
        assert [] == trap.requests
    assert 0 == notify.stop()
    refused = len(notify.traced("lookup")) - len(notify.traced("connect"))
    assert min(refused, kills, *(lots.answered.get(kind, 0) for kind in ("gone", "redirect")))
    answers = ", ".join(f"{kind} {count}" for kind, count in sorted(lots.answered.items()))
    proof.done(
        f"seed {seed}: {len(expected)} events, {kills} kills, {len(hooks.requests)} requests,"
        f" {repeats} repeats; answers: {answers}; at least {refused - kills} refused addresses"
    )
