"""Refusals under load: each of its own, for what one holds is held as long as it is."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest

from keyauthority_server.overload.errors import busy
from keyauthority_server.overload.throttle import too_many
from keyauthority_server.rpc_types import RpcError


@pytest.mark.parametrize("made", [busy, too_many])
def test_refusal_knows_nothing_of_those_before(made: Callable[[], RpcError]) -> None:
    """An exception that is raised again has the frames of all who raised it before."""

    def depth() -> int:
        try:
            raise made()
        except RpcError as refusal:
            return len(traceback.extract_tb(refusal.__traceback__))

    assert [1, 1, 1] == [depth() for _ in range(3)]
    assert made().status == made().status
