"""The duration of a refusal does not reveal its cause: absent key, wrong secret, or end.

Samples are taken in turns, so that other load on the machine affects all of them alike, and
compared by Cliff's delta: how much likelier a sample of one is the longer than one of the other.
"""

from __future__ import annotations

import random
import secrets
import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final
from unittest.mock import Mock

import grpc
import pytest

from keyauthority.model import KeyKind, KeyMode
from keyauthority.token import AccessKey, make, new_access_key, new_secret, parse
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority_server.services.principal import digest_matches
from tests.conftest import one_server
from tests.proofs import Proof
from tests.service.callers import (
    METHODS,
    Caller,
    bearer,
    new_key,
    new_operator,
    new_project,
    revoke,
    verdict,
)
from tests.service.imports import import_set, imported, item, new_token

pytestmark = [pytest.mark.prove, pytest.mark.case(14)]

ROUNDS: Final = 350
SEPARABLE: Final = 0.25  # chance makes up to 0.13 of so many samples, by 3 sigma
ATTEMPTS: Final = 3  # each adds its samples to those before
KEYS: Final = 8
SHED_MAX: Final = 10  # times in a row that a call is shed for the failures before it

Draw = Callable[[], tuple[bytes, Sequence[tuple[str, str]]]]
"""Gives the message and the metadata of a call."""


def delta(one: Sequence[float], other: Sequence[float]) -> float:
    """Cliff's delta: 0 if the samples lie alike, 1 or -1 if all of one lie beyond the other."""
    ordered = sorted(other)
    lower = sum(bisect_left(ordered, x) + bisect_right(ordered, x) for x in one)
    return lower / (len(one) * len(other)) - 1


def seconds_of(call: Any, body: bytes, metadata: Sequence[tuple[str, str]]) -> float:
    """The seconds that a call takes; one that the server sheds unread is made again later."""
    for _ in range(SHED_MAX):
        began = time.perf_counter()
        failure = call.future(body, metadata=metadata).exception()
        seconds = time.perf_counter() - began
        if failure is None or failure.code() is not grpc.StatusCode.RESOURCE_EXHAUSTED:
            return seconds
        time.sleep(1)  # in which the server allows some hundred failures more
    pytest.fail("the server sheds the calls that are to be timed")


def timed(
    root: Caller, method: str, draws: Mapping[str, Draw], rounds: int
) -> dict[str, list[float]]:
    """The seconds that each kind of call takes, taken in turns."""
    call: Any = root.channel.unary_unary(
        f"/{METHODS[method].containing_service.full_name}/{method}"
    )
    samples: dict[str, list[float]] = {name: [] for name in draws}
    for _ in range(rounds):
        for name in random.sample(list(draws), len(draws)):
            body, metadata = draws[name]()
            samples[name].append(seconds_of(call, body, metadata))
    return samples


def token(access_key: str, kind: KeyKind = KeyKind.SECRET, mode: KeyMode = KeyMode.TEST) -> str:
    """A well-formed token of a key with a secret that is not its own."""
    return make(kind, mode, AccessKey(access_key), new_secret()).reveal()


def assert_inseparable(root: Caller, method: str, draws: Mapping[str, Draw], proof: Proof) -> None:
    """The duration of no call differs from that of the first."""
    samples: dict[str, list[float]] = {name: [] for name in draws}
    deltas: dict[str, float] = {}
    for _ in range(ATTEMPTS):
        for name, more in timed(root, method, draws, ROUNDS).items():
            samples[name] += more
        first = next(iter(samples.values()))
        deltas = {name: delta(one, first) for name, one in samples.items()}
        if all(abs(one) < SEPARABLE for one in deltas.values()):
            told = ", ".join(f"{name} {one:+.3f}" for name, one in deltas.items())
            proof.done(f"{method}, {len(first)} calls of each, Cliff's delta to the first: {told}")
            return
    pytest.fail(f"the time tells: {deltas}")


def test_different_samples_are_distinguished() -> None:
    """Control: a difference of half the noise is detected, and equal samples are equal."""
    source = random.Random("timing")
    noise, same = ([source.gauss(100, 10) for _ in range(ROUNDS)] for _ in range(2))
    assert abs(delta(same, noise)) < SEPARABLE
    assert delta([one + 5 for one in same], noise) > SEPARABLE
    assert (1, -1, 0) == (delta([2], [1]), delta([1], [2]), delta([1], [1]))


@one_server
def test_verify_that_reads_and_hashes_takes_measurably_longer(
    root: Caller, project: str, proof: Proof
) -> None:
    """Control over the wire: a token that is cached as verified skips both, and it shows."""
    cached = new_key(root, project).secret_key
    assert "VALID" == verdict(root, cached)

    def asks(secret_key: str) -> tuple[bytes, tuple[tuple[str, str], ...]]:
        return pb.VerifyRequest(secret_key=secret_key).SerializeToString(), root.metadata

    draws: dict[str, Draw] = {
        "unknown": lambda: asks(token(new_access_key())),
        "cached": lambda: asks(cached),
    }
    samples = timed(root, "Verify", draws, ROUNDS)
    apart = delta(samples["unknown"], samples["cached"])
    assert apart > SEPARABLE
    proof.control(f"a Verify that reads and hashes is told apart from a cached one: {apart:+.3f}")


@pytest.fixture
def keys(root: Caller, project: str) -> list[Any]:
    """Keys that work."""
    return [new_key(root, project) for _ in range(KEYS)]


@pytest.fixture
def revoked(root: Caller, project: str) -> list[Any]:
    """Keys that are revoked."""
    made = [new_key(root, project) for _ in range(KEYS)]
    for one in made:
        revoke(root, access_key=one.key.access_key)
    return made


@one_server
def test_get_project_id_takes_equal_time_for_every_invalid_secret(
    root: Caller, keys: list[Any], revoked: list[Any], proof: Proof
) -> None:
    """No such key, a wrong secret, and the right one of a revoked key."""

    def asks(secret_key: str) -> tuple[bytes, tuple[()]]:
        return pb.GetProjectIdRequest(secret_key=secret_key).SerializeToString(), ()

    draws: dict[str, Draw] = {
        "unknown": lambda: asks(token(new_access_key())),
        "wrong secret": lambda: asks(token(random.choice(keys).key.access_key)),
        "revoked": lambda: asks(random.choice(revoked).secret_key),
    }
    assert_inseparable(root, "GetProjectId", draws, proof)


@one_server
def test_verify_takes_equal_time_for_absent_and_existing_keys(
    root: Caller, keys: list[Any], revoked: list[Any], proof: Proof
) -> None:
    """No such key, wrong secret, and wrong secret of a revoked key."""

    def asks(secret_key: str) -> tuple[bytes, tuple[tuple[str, str], ...]]:
        return pb.VerifyRequest(secret_key=secret_key).SerializeToString(), root.metadata

    draws: dict[str, Draw] = {
        "unknown": lambda: asks(token(new_access_key())),
        "wrong secret": lambda: asks(token(random.choice(keys).key.access_key)),
        "of a revoked": lambda: asks(token(random.choice(revoked).key.access_key)),
    }
    assert_inseparable(root, "Verify", draws, proof)


@one_server
def test_batch_takes_equal_time_for_unknown_and_foreign_tokens(
    root: Caller, keys: list[Any], proof: Proof
) -> None:
    """A confined operator sends one token 1,000 times: unknown, foreign, guessed."""
    confined = new_operator(root, "keys:verify", projects=[new_project(root)])
    tokens = {
        "unknown": token(new_access_key()),
        "foreign": keys[0].secret_key,
        "wrong secret": token(keys[0].key.access_key),
    }

    def asks(secret_key: str) -> Draw:
        items = [pb.VerifyRequest(secret_key=secret_key)] * 1_000
        body = pb.BatchVerifyRequest(requests=items).SerializeToString()
        return lambda: (body, confined.metadata)

    draws = {name: asks(secret_key) for name, secret_key in tokens.items()}
    assert_inseparable(root, "BatchVerify", draws, proof)


@one_server
def test_verify_takes_equal_time_for_unknown_and_foreign_tokens_of_an_import_set(
    root: Caller, project: str, proof: Proof
) -> None:
    """A confined operator: a token of no key, and those of keys in another project."""
    confined = new_operator(root, "keys:verify", projects=[new_project(root)])
    prefix = f"timing-{secrets.token_hex(4)}_"
    keys = [new_token(prefix) for _ in range(KEYS)]
    imported(root, import_set(token_prefix=prefix), [item(one, project) for one in keys])

    def asks(secret_key: str) -> tuple[bytes, tuple[tuple[str, str], ...]]:
        return pb.VerifyRequest(secret_key=secret_key).SerializeToString(), confined.metadata

    draws: dict[str, Draw] = {
        "unknown": lambda: asks(new_token(prefix)),
        "foreign": lambda: asks(random.choice(keys)),
    }
    assert_inseparable(root, "Verify", draws, proof)


@one_server
def test_get_project_id_takes_equal_time_for_invalid_tokens_of_an_import_set(
    root: Caller, project: str, proof: Proof
) -> None:
    """A token of no key, and those of revoked keys."""
    prefix = f"timing-{secrets.token_hex(4)}_"
    revoked = [new_token(prefix) for _ in range(KEYS)]
    wanted = import_set(token_prefix=prefix)
    for access_key in imported(root, wanted, [item(one, project) for one in revoked]):
        revoke(root, access_key=access_key)

    def asks(secret_key: str) -> tuple[bytes, tuple[()]]:
        return pb.GetProjectIdRequest(secret_key=secret_key).SerializeToString(), ()

    draws: dict[str, Draw] = {
        "unknown": lambda: asks(new_token(prefix)),
        "revoked": lambda: asks(random.choice(revoked)),
    }
    assert_inseparable(root, "GetProjectId", draws, proof)


@one_server
def test_credential_takes_equal_time_for_absent_and_existing_keys(
    root: Caller, proof: Proof
) -> None:
    """An operator key: absent, with a wrong secret, and revoked."""
    operators = [new_operator(root, "keys:verify") for _ in range(KEYS)]
    ended = [new_operator(root, "keys:verify") for _ in range(KEYS)]
    for one in ended:
        revoke(root, access_key=one.key.access_key)

    def with_secret(access_key: str) -> tuple[bytes, tuple[tuple[str, str], ...]]:
        return b"", (bearer(token(access_key, KeyKind.OPERATOR, KeyMode.LIVE)),)

    draws: dict[str, Draw] = {
        "unknown": lambda: with_secret(new_access_key()),
        "wrong secret": lambda: with_secret(random.choice(operators).key.access_key),
        "of a revoked": lambda: with_secret(random.choice(ended).key.access_key),
    }
    assert_inseparable(root, "GetProject", draws, proof)


def test_token_without_a_key_is_hashed_like_any_other() -> None:
    """An absent key costs the work of a wrong secret."""
    peppers = Mock()
    peppers.digest.return_value = bytes(32)
    text = token(new_access_key())
    read = parse(text)
    assert read is not None
    assert not digest_matches(None, read, text.encode(), peppers)
    assert 1 == peppers.digest.call_count
