"""BatchVerify on one core: other keys and addresses in each batch, and one batch repeated."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Final

from benchmarks.authority import ASKED, SERVICE, Authority, serving
from benchmarks.figures import Part
from benchmarks.h2load import Load, require
from benchmarks.load_generator import Traffic, TrafficLoad, write_bodies
from benchmarks.questions import KEYS, VALID, Keys, make_keys, questions
from benchmarks.run import LeftOut, Measure, Run, take_turns
from benchmarks.steady_changes import UnderChanges, changing_keys
from keyauthority.v1 import key_authority_service_pb2 as pb

SIZES: Final = (1, 10, 100, 1_000)
_CREATORS: Final = 16
STREAMS: Final = 2  # calls at once on each of 4 connections: each takes a while
_SIZE: Final = 100  # of the batches that are not repeated
_BATCHES: Final = 2_000  # in the file
_TURNS: Final = 3  # a turn beside changes is so many times as long
_RATES: Final = (0, 10)  # changes per second
_BEST: Final = "best case, repeated: {:,} a batch"
_TEXT: Final = f"""\
Keys verified per second, native transport, SQLite, one core, 8 batches at once. A batch of
{_SIZE} has keys drawn from {KEYS:,} and another client address for each, as traffic has them, and
is never repeated; changes of other keys are made beside it. The best case is one batch asked again
and again, with no changes: the keys in it are different; with facts, each is restricted, and asked
for a permission and an address."""


def measure(run: Run) -> Part:
    """Measure varied batches, then each size of repeated ones, all in turn."""
    require()
    part = Part("BatchVerify", _TEXT)
    keys = make_keys(run)
    with ExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(_CREATORS))
        authority = stack.enter_context(serving(run, "batch", data_from=keys.store.settings.data))
        plain = list(pool.map(lambda _: authority.create(), range(SIZES[-1])))
        strict = list(pool.map(lambda _: authority.strict(), range(SIZES[-1])))
        sides: dict[str, Measure] = {}
        try:
            load = _keys(_varied(run, authority, keys), _SIZE)
            changer = stack.enter_context(changing_keys(run, authority))
            sides |= {_name(rate): UnderChanges(load, changer, rate) for rate in _RATES}
        except LeftOut as reason:
            part.left_out.append(f"batches that are not repeated: {reason}")
        for size in SIZES:
            repeated = Load(run, authority.verify_batch(plain[:size]), streams=STREAMS)
            sides[_BEST.format(size)] = _keys(repeated, size)
        for size in SIZES[2:]:
            repeated = Load(run, authority.verify_batch(strict[:size], **ASKED), streams=STREAMS)
            sides[f"{_BEST.format(size)}, with facts"] = _keys(repeated, size)
        part.add("keys/s", take_turns(sides, run.rounds))
    part.compare("other questions in each batch to one repeated", _name(0), _BEST.format(_SIZE))
    part.compare(f"{_RATES[1]} changes/s to none", _name(_RATES[1]), _name(0))
    part.compare("best case: 100 a batch to 1", _BEST.format(100), _BEST.format(1))
    return part


def _varied(run: Run, authority: Authority, keys: Keys) -> TrafficLoad:
    asked = questions(keys.plain, _BATCHES * _SIZE)
    batches = (
        pb.BatchVerifyRequest(requests=[next(asked).request() for _ in range(_SIZE)])
        for _ in range(_BATCHES)
    )
    path = run.folder / "batches"
    traffic = Traffic(
        authority.server.address,
        f"{SERVICE}/BatchVerify",
        write_bodies(path, (batch.SerializeToString() for batch in batches)),
        prefix=VALID,
        items=_SIZE,
        metadata=f"x-auth-token={authority.server.operator_key}",
        calls=STREAMS,
    )
    return TrafficLoad(run, traffic, _TURNS * run.seconds)


def _name(changes: float) -> str:
    return f"{_SIZE} a batch, other keys and addresses in each, {changes} changes/s"


def _keys(load: Measure, size: int) -> Measure:
    return lambda: load() * size
