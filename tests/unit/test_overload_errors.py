"""Overload errors: a new exception for each call, for a held one keeps its frames."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import pytest

from keyauthority_server.overload.errors import busy
from keyauthority_server.overload.throttle import too_many
from keyauthority_server.rpc_types import RpcError


@pytest.mark.parametrize("made", [busy, too_many])
def test_overload_error_holds_no_earlier_frames(made: Callable[[], RpcError]) -> None:
    """An exception raised again has the frames of all earlier raises."""

    def depth() -> int:
        try:
            raise made()
        except RpcError as refusal:
            return len(traceback.extract_tb(refusal.__traceback__))

    assert [1, 1, 1] == [depth() for _ in range(3)]
    assert made().status == made().status
