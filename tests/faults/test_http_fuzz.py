"""Fuzzing of the HTTP end by raw requests."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import Final

import pytest

from tests.conftest import HTTP_SERVER
from tests.faults.http_fuzz import HttpReport, Requests, judge, run
from tests.proofs import Proof, scaled
from tests.service.callers import MIB
from tests.service.processes import ServerProcess

REQUESTS: Final = scaled(short=1_000, each=200_000)
MEMORY_MAX: Final = 48 * MIB  # buffers of connections and records kept decoded
REACHED: Final = {200, 400, 401, 404, 405, 415, 431}


@pytest.mark.parametrize("server", [HTTP_SERVER], indirect=True)
@pytest.mark.case(5)
@pytest.mark.timeout(120 + REQUESTS // 40)
def test_server_survives_hostile_requests(server: ServerProcess, proof: Proof) -> None:
    """No process ends, no text of a library, no 500 and no memory that stays."""
    report = asyncio.run(run(server, REQUESTS))
    assert [] == report.faults, report
    assert report.statuses.keys() >= REACHED, report
    assert report.memory[-1] - report.memory[1] < MEMORY_MAX, report
    proof.done(str(report))


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 500 Internal Server Error\r\n\r\nx",
        b"HTTP/1.1 503 Service Unavailable\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\n\r\nTraceback (most recent call last)",
        b"HTTP/1.1 400 Bad Request\r\n\r\nNoneType",
    ],
)
def test_answer_of_a_broken_server_is_a_fault(answer: bytes) -> None:
    """Control: its status, or the text of an exception."""
    report = HttpReport()
    judge(b"POST / HTTP/1.1", answer, report)
    assert report.faults
    judge(b"POST / HTTP/1.1", b"HTTP/1.1 400 Bad Request\r\n\r\n{}", sound := HttpReport())
    assert not sound.faults


def test_requests_repeat_by_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run can be reproduced at another time, which gzip would write into its header."""
    monkeypatch.setattr(time, "time", itertools.count(1_000).__next__)
    first, second = (
        [source.draw() for _ in range(300)]
        for source in (Requests("seed", "op_live_x"), Requests("seed", "op_live_x"))
    )
    assert first == second
    assert len(set(first)) > 250
