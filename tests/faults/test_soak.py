"""Endless load: memory, descriptors, threads and log stay bounded."""

from __future__ import annotations

from contextlib import ExitStack

import grpc
import pytest

from keyauthority_server.records.cache import KEYS_MAX
from tests.conftest import Start
from tests.faults.soak import MIB, SAMPLES, Held, Window, fill, held, soak, window
from tests.proofs import PROVE, Proof, scaled
from tests.service.processes import wait_until

SECONDS = scaled(short=3, each=36)
# For all processes: SQLite's caches, which are bounded, fill as the log grows.
MEMORY_MAX = 12 * MIB
DESCRIPTORS_MAX = 8  # connections and streams come and go
POOLED_MAX = 16  # as many as grpcio ever holds in reserve; it begins with 4 on a small machine
LEAKED = 40


def growth(before: Window, after: Window) -> list[str]:
    """Return the growth from one window to another."""
    found = []
    if after.memory > before.memory + MEMORY_MAX:
        found.append(f"memory by {(after.memory - before.memory) / MIB:.1f} MiB")
    if after.descriptors > before.descriptors + DESCRIPTORS_MAX:
        found.append(f"descriptors by {after.descriptors - before.descriptors}")
    if after.threads > before.threads:
        found.append(f"threads by {after.threads - before.threads}")
    if after.pooled > POOLED_MAX:
        found.append(f"grpcio's pool to {after.pooled} threads")
    if after.log > before.log:
        found.append(f"log by {after.log - before.log} lines")
    return found


def windows(samples: list[Held]) -> tuple[Window, Window]:
    """Return the resources in the middle of a run, and at its end."""
    half = SAMPLES // 2
    return window(samples[half - SAMPLES // 5 : half]), window(samples[-SAMPLES // 5 :])


@pytest.mark.case(35)
@pytest.mark.timeout(600 * max(PROVE, 1))  # most of it imports keys, on a busy machine
@pytest.mark.parametrize("engine", ["sqlite", "postgres"] if PROVE else ["sqlite"])
def test_endless_load_does_not_grow_the_server(
    start_server: Start, engine: str, proof: Proof, request: pytest.FixtureRequest
) -> None:
    """With a tenth of all calls cancelled nothing grows; a leaking client is noticed."""
    flags = ["--transport", "native", "--workers", "2"]
    if engine == "postgres":
        # A busy machine may fail to prove freshness each second, which is not tested here.
        url = request.getfixturevalue("cluster").create()
        flags = ["--transport", "grpcio", "--store", url, "--max-staleness", "30s"]
    server = start_server(*flags)
    if PROVE:
        fill(server, KEYS_MAX)
    samples, made = soak(server, SECONDS)
    before, after = windows(samples)
    figures = (
        f"{SECONDS} s, {sum(made.values())} calls, {made['CANCELLED']} cancelled; memory "
        f"{before.memory / MIB:.1f} -> {after.memory / MIB:.1f} MiB, descriptors "
        f"{before.descriptors:.0f} -> {after.descriptors:.0f}, threads "
        f"{before.threads:.0f} -> {after.threads:.0f}, of grpcio's pool {before.pooled:.0f} -> "
        f"{after.pooled:.0f}, log {before.log} -> {after.log} lines"
    )
    proof.done(f"{engine}: {figures}")
    assert {"OK", "CANCELLED", "NOT_FOUND", "INVALID_ARGUMENT"} >= set(made), made
    assert not PROVE or [] == growth(before, after), figures

    idle = held(server)
    with ExitStack() as leak:
        for _ in range(LEAKED):
            options = (("grpc.use_local_subchannel_pool", 1),)
            channel = leak.enter_context(grpc.insecure_channel(server.address, options))
            grpc.channel_ready_future(channel).result(timeout=20)
        (seen,) = growth(window([idle]), window([held(server)]))
    assert seen.startswith("descriptors")
    wait_until(lambda: [] == growth(window([idle]), window([held(server)])))
    proof.control(f"{LEAKED} connections that a client forgets were seen: {seen}")
    assert 0 == server.stop().code
