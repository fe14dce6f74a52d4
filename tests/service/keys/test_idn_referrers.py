"""Referrer patterns that need IDNA conversion are checked in slices, between which others run."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import pytest

from keyauthority.requests import NewProject
from keyauthority.restrictions import check_referrer
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority.v1 import key_pb2
from keyauthority_server import rpc
from keyauthority_server.rpc import field_rules
from keyauthority_server.rpc_types import Call
from keyauthority_server.services import time_slices
from tests.faults.folders import Process
from tests.service.verify.test_cached_verify import SERVICE

PATTERNS: Final = 100


async def test_event_loop_runs_between_referrer_patterns(
    one: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs after each pattern of a CreateKey; the patterns are those of the key."""
    new = NewProject()
    made_project = await one.authority.projects.create(
        await one.caller("projects:create"), new, b"content"
    )
    patterns = [f"https://{chr(0x4E00 + number) * 20}.example/*" for number in range(PATTERNS)]
    request = pb.CreateKeyRequest(
        project_id=made_project.project.project_id,
        mode=key_pb2.KEY_MODE_TEST,
        kind=key_pb2.KEY_KIND_SECRET,
        restrictions=key_pb2.Restrictions(allowed_referrers=patterns),
    )
    methods: Any = rpc.services(one.authority, None)[SERVICE]
    call = Call((("x-auth-token", one.credential.text),), "ipv4:127.0.0.1:1")
    monkeypatch.setattr(time_slices, "SLICE_SECONDS", 0.0)
    turns, checked = 0, []

    def check(text: str) -> None:
        checked.append(turns)
        check_referrer(text)

    monkeypatch.setattr(field_rules, "check_referrer", check)
    creating = asyncio.ensure_future(methods["CreateKey"](request.SerializeToString(), call))
    while not creating.done():
        await asyncio.sleep(0)
        turns += 1
    made = pb.CreateKeyResponse.FromString(creating.result())
    assert patterns == list(made.key.restrictions.allowed_referrers)
    assert PATTERNS == len(set(checked)) == len(checked)
