"""The processor time of refused calls, as multiples of an ordinary refused Verify."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterable, Mapping
from itertools import count, repeat
from typing import Any, Final

from google.rpc.code_pb2 import INVALID_ARGUMENT

from benchmarks.authority import SERVICE
from benchmarks.figures import Part
from benchmarks.run import Run
from benchmarks.stores import filled
from keyauthority.model import KeyKind, KeyMode
from keyauthority.token import make, new_access_key, new_secret
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority.v1 import key_pb2
from keyauthority_server import rpc
from keyauthority_server.rpc_types import Call, RpcError
from keyauthority_server.runtime import bootstrap

_Metadata = tuple[tuple[str, str], ...]
_CALLS: Final = 5  # of each kind in one round
_MIB: Final = 1024 * 1024
_SMALL: Final = 1_000  # bytes: a Verify that is parsed before the caller is known
_FULL: Final = 1_000  # items of a full batch
_ITEM: Final = pb.VerifyRequest(secret_key="x" * 78, permissions=["orders:read"] * 100)


def _batch(last: pb.VerifyRequest) -> bytes:
    return pb.BatchVerifyRequest(requests=[_ITEM] * (_FULL - 1) + [last]).SerializeToString()


_BODIES: Final = {
    "a batch of one item too many": ("BatchVerify", b"\x0a\x00" * (_FULL + 1)),
    "a small list of permissions": ("Verify", b"\x2a\x00" * (_SMALL // 2)),
    "small unknown fields": ("BatchVerify", b"\xf8\x07\x00" * (_SMALL // 3)),
    "a small mask of empty paths": ("UpdateKey", b"\x5a\xe8\x07" + b"\x0a\x00" * (_SMALL // 2)),
    "a batch of empty items": ("BatchVerify", b"\x0a\x00" * (2 * _MIB - 50)),
    "a batch of long lists": ("BatchVerify", (b"\x0a\x90\x1f" + b"\x2a\x00" * 2000) * 1000),
    "a batch of unknown fields": ("BatchVerify", b"\xf8\x07\x00" * 1_300_000),
    "a field that is set again": ("Verify", b"\x0a\x00" * 2_000_000),
    "a map of empty entries": ("CreateKey", b"\x5a\x00" * 2_000_000),
    "a batch with an invalid last item": (
        "BatchVerify",
        b"\x0a\x00" * (_FULL - 1) + b"\x0a\x02\x20\x07",  # a mode that does not exist
    ),
    "a full batch that is cut": ("BatchVerify", _batch(_ITEM)[:-1]),
    "a full batch with a cut last item": (
        "BatchVerify",
        _batch(_ITEM)[:-12] + b"\x7f" + _batch(_ITEM)[-11:],
    ),
    "a full batch with a last text that is damaged": ("BatchVerify", _batch(_ITEM)[:-1] + b"\xff"),
    "a full batch with a last list that is too long": (
        "BatchVerify",
        _batch(pb.VerifyRequest(permissions=["orders:read"] * 101)),
    ),
}
_ORDINARY: Final = ("Verify", pb.VerifyRequest(secret_key="x" * 78).SerializeToString())
_TEXT: Final = """\
Processor time of one refused call in the event loop on SQLite, from the request's bytes to the
error, as a multiple of an ordinary refused Verify without a credential: medians of calls made in
turns. The transport is not measured. A confined operator has all rights in one project; there is
one for each kind of request, and one that has used up the time of its refused requests."""


def measure(run: Run) -> Part:
    """Measure each refused call in turns with the ordinary one."""
    part = Part("Refused calls", _TEXT)
    for who, ratios in asyncio.run(_measured(run)).items():
        for name, ratio in ratios.items():
            part.add("times an ordinary refused Verify", {f"{who}: {name}": [ratio]})
        part.add("times an ordinary refused Verify", {f"{who}: dearest": [max(ratios.values())]})
    return part


async def _measured(run: Run) -> dict[str, dict[str, float]]:
    store = await filled(run.folder, 10)
    settings = store.settings
    root = (settings.data / bootstrap.OPERATOR_KEY).read_text(encoding="ascii").strip()
    async with bootstrap.open_authority(settings, checkpoints=True) as authority:
        methods: Any = rpc.services(authority, None)[SERVICE.strip("/")]
        forged = make(KeyKind.OPERATOR, KeyMode.LIVE, new_access_key(), new_secret()).reveal()
        confined = [
            await _confined(methods, root, store.project_id) for _ in range(len(_BODIES) + 1)
        ]
        spent = confined.pop()
        await _use_up(methods, spent)
        callers: dict[str, Iterable[_Metadata]] = {
            "stranger": repeat(()),
            "forged key": repeat((("x-auth-token", forged),)),
            "confined operator": confined,
            "operator beyond its bound": repeat(spent),
        }
        return {
            who: await _ratios(methods, dict(zip(_BODIES, given, strict=False)), run.rounds)
            for who, given in callers.items()
        }


async def _use_up(methods: Any, metadata: _Metadata) -> None:
    """Make invalid requests until they are refused unparsed."""
    name, body = _BODIES["a full batch with a last list that is too long"]
    code = INVALID_ARGUMENT
    while code == INVALID_ARGUMENT:
        try:
            await methods[name](body, Call(metadata, "ipv4:192.0.2.1:1"))
        except RpcError as refused:
            code = refused.code


async def _confined(methods: Any, root: str, project_id: str) -> _Metadata:
    request = pb.CreateKeyRequest(
        kind=key_pb2.KEY_KIND_OPERATOR, permissions=["*:*"], operator_projects=[project_id]
    )
    call = Call((("x-auth-token", root),), "ipv4:127.0.0.1:1")
    answer = await methods["CreateKey"](request.SerializeToString(), call)
    return (("x-auth-token", pb.CreateKeyResponse.FromString(answer).secret_key),)


async def _ratios(methods: Any, metadata: Mapping[str, _Metadata], rounds: int) -> dict[str, float]:
    peers = count(1)

    async def seconds(name: str, body: bytes, given: _Metadata) -> float:
        number = next(peers)  # of another network each, as no peer may fail often
        call = Call(given, f"ipv4:{number % 200 + 1}.{number // 200}.0.1:1")
        began = time.process_time()
        try:
            await methods[name](body, call)
        except RpcError:
            return time.process_time() - began
        raise AssertionError(name)

    times: dict[str, list[float]] = {name: [] for name in _BODIES}
    ordinary: list[float] = []
    for _ in range(_CALLS * rounds):
        ordinary.append(await seconds(*_ORDINARY, ()))
        for what, (name, body) in _BODIES.items():
            times[what].append(await seconds(name, body, metadata[what]))
    base = statistics.median(ordinary)
    return {what: statistics.median(taken) / base for what, taken in times.items()}
