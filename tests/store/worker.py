"""A process that uses a store, for the tests that need several: `worker ENGINE PLACE ROLE`.

`write N CALLERS` makes N keys and prints each key's access key and revision once it is
acknowledged; `spend LIMIT` spends from one counter until it is used up, and says so after each;
`fall LIMIT` spends from it once, and is killed before the commit;
`look ACCESS_KEY` reads once for each line of its input, and prints the result;
`start` makes or opens a database and prints its log_id.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any
from unittest.mock import patch

from keyauthority_server.store.counters import Counter, Counters, Spend
from keyauthority_server.store.interface import Store
from keyauthority_server.store.sqlite.connection import SqliteRows
from tests.store.engines import ENGINES
from tests.store.factories import create, create_project, key


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def write(store: Store, count: int, callers: int) -> None:
    """Make keys, and say so after each."""
    owner = (await create_project(store)).project_id

    async def caller() -> None:
        for _ in range(count // callers):
            made = await create(store, key(owner))
            say(f"{made.access_key} {made.revision}")

    await asyncio.gather(*(caller() for _ in range(callers)))


async def spend(counters: Counters, limit: int) -> None:
    """Spend one by one from a counter that all such workers share, eight at a time.

    Every second caller spends in the event loop where that is possible.
    """
    wanted = (Spend((Counter("shared", 0, limit),), 1),)

    async def caller(place: int) -> None:
        while True:
            results = counters.spend_now(wanted) if place % 2 else None
            if not (results or await counters.spend(wanted))[0][0].fits:
                return
            say("spent")
            await asyncio.sleep(0)

    await asyncio.gather(*map(caller, range(8)))
    await counters.close()


def fall(counters: Counters, limit: int) -> None:
    """Spend in the event loop, and be killed before the commit."""

    def run(rows: SqliteRows, statement: str, values: Sequence[Any] = ()) -> None:
        if statement == "COMMIT":
            os.kill(os.getpid(), signal.SIGKILL)
        run_statement(rows, statement, values)

    run_statement = SqliteRows.run
    with patch.object(SqliteRows, "run", run):
        while counters.spend_now((Spend((Counter("shared", 0, limit),), 1),)) is None:
            pass  # a checkpoint was in the way


async def look(store: Store, access_key: str) -> None:
    """Read once for each line of input."""
    for _ in sys.stdin:
        held = (await store.read(access_key, None)).stored
        say(str(held and held.key.revision))


async def main(engine: str, place: str, role: str, *arguments: str) -> None:
    """Run the role."""
    if role == "start":
        ENGINES[engine].migrate(place)
    if role == "spend":
        await spend(ENGINES[engine].counters(place), *map(int, arguments))
        return
    if role == "fall":
        fall(ENGINES[engine].counters(place), *map(int, arguments))
        return
    store = ENGINES[engine].open(place)
    if role == "write":
        await write(store, *map(int, arguments))
    elif role == "look":
        await look(store, *arguments)
    else:
        say(store.log_id)
    await store.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
