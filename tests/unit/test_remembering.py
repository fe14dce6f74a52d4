"""Answers that are given again: only while what they rest on stands, only to the same caller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest

from keyauthority.errors import Unauthenticated
from keyauthority.model import KeyKind, KeyMode
from keyauthority.token import make, new_access_key, new_secret
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority_server.rpc import remembering
from keyauthority_server.rpc.remembering import REQUEST_MAX, Rested, remembered, remembered_each
from keyauthority_server.wire import Call

BODY = pb.VerifyRequest(secret_key="one").SerializeToString()
OTHER_BODY = pb.VerifyRequest(secret_key="two").SerializeToString()


def caller(address: str = "10.0.0.1") -> Call:
    """A call of an operator of its own."""
    token = make(KeyKind.OPERATOR, KeyMode.LIVE, new_access_key(), new_secret())
    return Call((("x-auth-token", token.reveal()),), f"ipv4:{address}:5000")


class Ground(NamedTuple):
    """What an answer rests on."""

    revision: int = 1
    weight: int = 1


class Method:
    """A method whose every answer is another, so that one that is given again is known."""

    def __init__(self, rests_on: Ground | None = Ground()) -> None:  # noqa: B008 - immutable
        self.calls = 0
        self.rests_on = rests_on
        self.stands = True
        self.answer = remembered(self.serve, self.verify_again)

    async def serve(self, call: Call, body: bytes) -> Rested:
        """Answer with how many calls there were."""
        self.calls += 1
        made = pb.VerifyResponse(revision=self.calls)
        return Rested(made, (self.rests_on,), (made,))

    async def verify_again(self, ground: Ground, kept: bytes) -> bytes | None:
        """The answer that was kept, while it stands."""
        return kept if self.again((ground,)) else None

    def again(self, grounds: Sequence[Ground]) -> bool:
        """True while it stands."""
        assert {self.rests_on} == set(grounds)
        return self.stands

    def ask(self, body: bytes, call: Call) -> int:
        """Call it; return which call made the answer."""
        return pb.VerifyResponse.FromString(asyncio.run(self.answer(body, call))).revision


class ManyAtOnce(Method):
    """The same with several to a call; those that rest on nothing have `once` in them."""

    def __init__(self) -> None:
        super().__init__()
        self.answer = remembered_each(self.serve, self.again)

    async def serve(self, call: Call, body: bytes) -> Rested:
        """Answer each with how many calls there were."""
        self.calls += 1
        request = pb.BatchVerifyRequest.FromString(body)
        made = pb.VerifyResponse(revision=self.calls)
        grounds = [None if one.secret_key == "once" else Ground() for one in request.requests]
        answer = pb.BatchVerifyResponse(responses=[made] * len(grounds))
        return Rested(answer, grounds, answer.responses)

    def ask_each(self, call: Call, *keys: str) -> list[int]:
        """Call it; return for each which call made the answer."""
        request = pb.BatchVerifyRequest(requests=[pb.VerifyRequest(secret_key=key) for key in keys])
        answer = asyncio.run(self.answer(request.SerializeToString(), call))
        return [one.revision for one in pb.BatchVerifyResponse.FromString(answer).responses]


def test_same_call_has_the_answer_that_it_had() -> None:
    """It is served once, until it no longer stands; then once more."""
    method, call = Method(), caller()
    assert [1, 1, 1] == [method.ask(BODY, call) for _ in range(3)]
    method.stands = False
    assert 2 == method.ask(BODY, call)
    method.stands = True
    assert 2 == method.ask(BODY, call)


@pytest.mark.parametrize(
    "other",
    [
        lambda call: (OTHER_BODY, call),
        lambda call: (BODY, caller()),
        lambda call: (BODY, call._replace(peer="ipv4:10.0.0.2:5000")),
    ],
    ids=["request", "operator", "address"],
)
def test_other_call_is_served_for_itself(other: Callable[[Call], tuple[bytes, Call]]) -> None:
    """What is asked, who asks and from where are all part of a call."""
    method, call = Method(), caller()
    assert 1 == method.ask(BODY, call)
    assert 2 == method.ask(*other(call))
    assert 1 == method.ask(BODY, call)


def test_same_operator_on_another_connection_makes_the_same_call() -> None:
    """A port is nobody's name."""
    method, call = Method(), caller()
    assert 1 == method.ask(BODY, call)
    assert 1 == method.ask(BODY, call._replace(peer="ipv4:10.0.0.1:5001"))


def test_answer_that_rests_on_more_is_not_kept() -> None:
    """Such a call is served each time."""
    method, call = Method(rests_on=None), caller()
    assert [1, 2] == [method.ask(BODY, call) for _ in range(2)]


def test_large_message_is_not_kept() -> None:
    """Nor is it hashed."""
    method, call = Method(), caller()
    body = pb.VerifyRequest(secret_key="x" * REQUEST_MAX).SerializeToString()
    assert [1, 2] == [method.ask(body, call) for _ in range(2)]


def test_memory_of_answers_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer that was kept longest makes room."""
    monkeypatch.setattr(remembering, "ANSWERS_MAX", 2)
    method, call = Method(), caller()
    bodies = [pb.VerifyRequest(secret_key=f"{number}").SerializeToString() for number in range(3)]
    assert [1, 2, 3] == [method.ask(body, call) for body in bodies]
    assert [3, 2] == [method.ask(body, call) for body in reversed(bodies[1:])]
    assert 4 == method.ask(bodies[0], call)


def test_heavy_answer_takes_the_room_of_several(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an answer rests on is kept with it."""
    monkeypatch.setattr(remembering, "ANSWERS_MAX", 3)
    light, heavy, call = Method(), Method(Ground(weight=3)), caller()
    bodies = [pb.VerifyRequest(secret_key=f"{number}").SerializeToString() for number in range(3)]
    assert [1, 2, 3, 1] == [light.ask(body, call) for body in (*bodies, bodies[0])]
    assert [1, 2, 3, 4] == [heavy.ask(body, call) for body in (*bodies, bodies[0])]


def test_newer_answer_ends_all_older_ones() -> None:
    """None of them can stand again; and one that comes late is not kept among newer ones."""
    method, call = Method(), caller()
    bodies = [pb.VerifyRequest(secret_key=f"{number}").SerializeToString() for number in range(3)]
    assert [1, 2, 1] == [method.ask(bodies[place], call) for place in (0, 1, 0)]
    method.rests_on = Ground(revision=2)
    assert [3, 4, 3] == [method.ask(bodies[place], call) for place in (2, 0, 2)]
    method.rests_on = Ground(revision=1)
    assert [5, 6] == [method.ask(bodies[1], call) for _ in range(2)]
    method.rests_on = Ground(revision=2)
    assert [3, 4] == [method.ask(bodies[place], call) for place in (2, 0)]


def test_batch_is_given_again_as_a_whole_or_not_at_all() -> None:
    """A batch has one state: if one of it is to be worked out, all are."""
    method, call = ManyAtOnce(), caller()
    assert [1, 1] == method.ask_each(call, "one", "two")
    assert [1, 1, 1] == method.ask_each(call, "two", "one", "two")
    assert [2, 2] == method.ask_each(call, "two", "three")
    assert [1, 2] == method.ask_each(call, "one", "three")
    method.stands = False
    assert [3, 3] == method.ask_each(call, "one", "three")


def test_batch_with_one_that_is_good_for_once_is_worked_out_each_time() -> None:
    """And so is an empty one, which is refused."""
    method, call = ManyAtOnce(), caller()
    assert [1, 1] == method.ask_each(call, "one", "once")
    assert [2, 2] == method.ask_each(call, "one", "once")
    assert [] == method.ask_each(call)
    assert 3 == method.calls


def test_call_without_a_credential_is_refused_before_all() -> None:
    """Nothing is looked for under the name of nobody."""
    method = Method()
    with pytest.raises(Unauthenticated):
        method.ask(BODY, Call((), "ipv4:10.0.0.1:5000"))
    assert 0 == method.calls
