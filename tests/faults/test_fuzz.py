"""Fuzzing over live connections."""

from __future__ import annotations

import os
from typing import Final

import pytest

from tests.conftest import each_grpc_transport
from tests.faults.fuzz import LEAKS, bodies, fault_in, run
from tests.faults.hostile_inputs import Source
from tests.proofs import Proof
from tests.service.callers import METHODS, MIB, Caller
from tests.service.processes import ServerProcess

MESSAGES: Final = 2_000 * int(os.environ.get("PROVE", "1"))  # PROVE=500 makes it a million
MEMORY_MAX: Final = 64 * MIB  # bytes of growth allowed, mostly decoded records
REACHED: Final = {"OK", "INVALID_ARGUMENT", "UNAUTHENTICATED", "NOT_FOUND"}
KNOWN: Final = {"access_key": ["KA0123456789ABCDEFGH"]}


@each_grpc_transport
@pytest.mark.timeout(120 + MESSAGES // 200)
def test_server_survives_hostile_messages(
    server: ServerProcess, root: Caller, proof: Proof
) -> None:
    """No process ends, no internals leak, no call is INTERNAL, no memory stays."""
    report = run(server, root, server.address, MESSAGES)
    assert [] == report.faults, report
    assert report.codes.keys() >= REACHED, "the run did not get past the first checks"
    assert report.memory[-1] - report.memory[0] < MEMORY_MAX, report
    assert report.log_bytes < MESSAGES * 10, report
    proof.done("; ".join(line.strip() for line in str(report).splitlines()))


@pytest.mark.parametrize("leak", LEAKS)
def test_leaked_internal_text_is_a_fault(leak: str) -> None:
    """Control: each kind of leak is found in upper and lower case."""
    assert fault_in("INVALID_ARGUMENT", f"cannot {leak.upper()} it")
    assert fault_in("INVALID_ARGUMENT", "purpose: at most 200 characters") is None


@pytest.mark.parametrize("code", ["INTERNAL", "UNKNOWN", "UNAVAILABLE", "DEADLINE_EXCEEDED"])
def test_internal_code_is_a_fault(code: str) -> None:
    """Control: even with a correlation id and nothing else."""
    assert fault_in(code, "internal_error")
    assert fault_in("NOT_FOUND", "of secretpart", ["secretpart"])


def test_fuzz_messages_cover_all_methods_and_repeat_by_seed() -> None:
    """A run can be reproduced by its seed and omits no method."""

    class Nobody:
        tokens = ("sk_test_KA000000000000000000_" + "0" * 43 + "jmIqF0",)

    drawn = [
        [draw() for _ in range(2_000)]
        for draw in (bodies(Source("seed", KNOWN), Nobody()) for _ in range(2))  # type: ignore[arg-type]
    ]
    assert drawn[0] == drawn[1]
    assert {name for name, _ in drawn[0]} == set(METHODS)
    assert len({body for _, body in drawn[0]}) > 1_200
