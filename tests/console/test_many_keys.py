"""A project of 100,000 keys: the list, the search and the page of a key are quick."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from statistics import median
from typing import Final

import pytest

from keyauthority import AsyncClient
from tests.console.people import Person, running_console
from tests.proofs import PROVE, Proof
from tests.service.processes import ServerProcess, start

pytestmark = [pytest.mark.prove, pytest.mark.timeout(1800)]

KEYS: Final = 100_000 * max(PROVE, 1)
AT_ONCE: Final = 250  # calls; the server sheds more
PAGES: Final = 60
SECONDS: Final = 0.2


async def create_keys(server: ServerProcess) -> tuple[str, list[str]]:
    """Create the keys; return their project and some access keys."""
    async with AsyncClient(server.address, operator_key=server.operator_key, timeout=120) as client:
        project_id = (await client.create_project("Large")).project_id
        access_keys: list[str] = []
        for first in range(0, KEYS, AT_ONCE):
            created = await asyncio.gather(
                *(
                    client.create_key(
                        project_id,
                        mode="live" if number % 2 else "test",
                        kind="restricted",
                        purpose=f"worker {number}",
                        permissions=["orders:read"],
                    )
                    for number in range(first, first + AT_ONCE)
                )
            )
            access_keys += [one.key.access_key for one in created[:1]]
    return project_id, access_keys


def test_pages_of_a_large_project_take_less_than_200_ms(tmp_path: Path, proof: Proof) -> None:
    """At the median, for a list, filters, a search anywhere in the project, and a key."""
    server = start(tmp_path / "data")
    try:
        project_id, access_keys = asyncio.run(create_keys(server))
        with running_console(tmp_path, server) as console:
            person = Person(console.url)
            person.sign_in(server.operator_key)
            keys, project = cycle(access_keys), f"/projects/{project_id}"
            measured = {
                "list": lambda: project,
                "filtered list": lambda: f"{project}?mode=live&state=active",
                "search": lambda: f"{project}?q=worker",
                "search for one purpose": lambda: f"{project}?q=worker+{KEYS - 7}",
                "search for part of an access key": lambda: f"{project}?q={next(keys)[5:14]}",
                "key": lambda: f"/keys/{next(keys)}",
            }
            used = _cpu_seconds(server)
            medians = {name: _median(person, path) for name, path in measured.items()}
            cost = (_cpu_seconds(server) - used) / (PAGES * len(measured))
    finally:
        server.stop()
    proof.done(
        f"{KEYS:,} keys: "
        + ", ".join(f"{name} {1000 * seconds:.0f} ms" for name, seconds in medians.items())
        + f"; {1000 * cost:.0f} ms of the server's CPU per page"
    )
    assert {name: seconds for name, seconds in medians.items() if seconds >= SECONDS} == {}


def _cpu_seconds(server: ServerProcess) -> float:
    """Return the CPU time of the server's workers."""
    ticks = 0
    for pid in server.worker_pids():
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(") ")[2].split()
        ticks += int(fields[11]) + int(fields[12])  # utime and stime, of proc(5)
    return ticks / os.sysconf("SC_CLK_TCK")


def _median(person: Person, path: Callable[[], str]) -> float:
    """Return the median of the seconds that pages take."""
    taken = []
    for _ in range(PAGES):
        start_time = time.perf_counter()
        assert person.get(path()).status_code == 200
        taken.append(time.perf_counter() - start_time)
    return median(taken)
