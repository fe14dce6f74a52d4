"""Invalid large requests of one operator: a bounded part of a worker's time."""

from __future__ import annotations

from typing import Final

import grpc

from keyauthority.v1 import key_authority_service_pb2 as pb
from tests.conftest import Start
from tests.service.callers import Caller, new_key, new_operator, new_project, verdict
from tests.service.metrics import scrape, value
from tests.service.processes import wait_until

ITEMS: Final = 1_000
CALLS_MAX: Final = 2_000
OVERLOADED: Final = (grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED")
INVALID: Final = (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")


def test_invalid_batches_of_one_operator_are_refused_unparsed_after_some_time(
    start_server: Start,
) -> None:
    """Its small calls and the batches of other operators are served, and later its own again."""
    server = start_server("--metrics", "127.0.0.1:0")
    with grpc.insecure_channel(server.address) as channel:
        root = Caller(channel, server.metadata)
        project = new_project(root)
        secret_key = new_key(root, project).secret_key
        confined = new_operator(root, "keys:verify", projects=[project])
        item = pb.VerifyRequest(secret_key=secret_key)
        valid = pb.BatchVerifyRequest(requests=[item])
        wrong = pb.VerifyRequest(secret_key=secret_key, cost=-1)
        invalid = pb.BatchVerifyRequest(requests=[*[item] * (ITEMS - 1), wrong])
        assert INVALID == outcome(confined, invalid)

        def is_refused() -> bool:
            for _ in range(CALLS_MAX):
                if outcome(confined, invalid) == OVERLOADED:
                    return outcome(confined, valid) == OVERLOADED  # unless time has passed
            raise AssertionError("no invalid batch was refused unparsed")

        wait_until(is_refused)
        assert "VALID" == verdict(confined, secret_key)
        assert INVALID == outcome(root, invalid)
        assert outcome(root, valid) is None
        wait_until(lambda: value(scrape(server), "keyauthority_refusals_total", '"peer"') >= 2)
        wait_until(lambda: outcome(confined, valid) is None)


def outcome(caller: Caller, batch: pb.BatchVerifyRequest) -> tuple[grpc.StatusCode, str] | None:
    """Return code and reason of a refused batch; None for an answered one."""
    refused = caller.outcome("BatchVerify", batch.SerializeToString())
    return (refused.code, refused.reason) if refused else None
