"""Nearly valid tokens: MALFORMED or UNKNOWN, and no lookup on a bad check."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final
from unittest.mock import AsyncMock, Mock

import pytest

from keyauthority.errors import Unauthenticated
from keyauthority.model import Facts, KeyKind, KeyMode
from keyauthority.requests import VerifyQuery
from keyauthority.token import make, new_access_key, new_secret, parse
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority.v1 import key_pb2
from keyauthority_server.services import Credential
from keyauthority_server.services.verification import Verification
from tests.conftest import each_transport, one_server
from tests.service.callers import BASE62, MIB, Caller, mended, new_key, new_operator, revoke

PREFIXES: Final = ("sk_live_", "sk_test_", "rk_live_", "rk_test_", "pk_live_", "pk_test_")
OTHER_PREFIXES: Final = ("op_live_", "op_test_", "sk_prod_", "SK_TEST_", "sk-test-", "xx_test_", "")
SPACES: Final = (" ", "\t", "\n", "\r\n", "\0", "\u00a0", "\u200b", "\ufeff", "\u2028")
BATCH: Final = 1000


def changed(token: str) -> Iterator[str]:
    """The token with each character changed into its neighbours and others, dropped, doubled."""
    for place, one in enumerate(token):
        head, tail = token[:place], token[place + 1 :]
        at = BASE62.find(one)
        for other in (BASE62[at - 1], BASE62[(at + 1) % 62], one.swapcase(), "_", "\u0661", " "):
            if other != one:
                yield head + other + tail
        yield head + tail
        yield head + one + one + tail
        if tail and tail[0] != one:
            yield head + tail[0] + one + tail[1:]


def dressed(token: str) -> Iterator[str]:
    """The token with something around it, in another case, or in another alphabet."""
    for space in SPACES:
        yield from (space + token, token + space, token[:29] + space + token[29:])
    yield from (token.upper(), token.lower(), token.swapcase(), token * 2, f'"{token}"')
    yield from ("Bearer " + token, token + "=", token[:-1], token[:40], token[28:], "")
    yield "".join(chr(ord(one) + 0xFEE0) for one in token)  # full-width forms of ASCII
    yield from (token.replace("k", "\u212a"), token.replace("_", "\uff3f"), token.encode().hex())
    yield token.ljust(MIB, "x")


def with_prefixes(token: str) -> Iterator[str]:
    """The token of every other kind and mode, its check digits left as they were."""
    for prefix in (*PREFIXES, *OTHER_PREFIXES):
        if not token.startswith(prefix) or not prefix:
            yield prefix + token[8:]


def verdicts(caller: Caller, tokens: Iterable[str]) -> dict[str, str]:
    """The verdict on each token."""
    every, found = list(dict.fromkeys(tokens)), {}
    for first in range(0, len(every), BATCH):
        some = every[first : first + BATCH]
        requests = [pb.VerifyRequest(secret_key=token) for token in some]
        answer = caller.ask(pb.BatchVerifyRequest(requests=requests))
        for token, one in zip(some, answer.responses, strict=True):
            assert not one.valid
            assert (one.access_key, one.project_id, one.kind) == ("", "", 0)
            found[token] = pb.Verdict.Name(one.verdict).removeprefix("VERDICT_")
    return found


def not_as(expected: str, found: dict[str, str]) -> dict[str, str]:
    """The tokens that were judged differently."""
    return {token[:100]: verdict for token, verdict in found.items() if verdict != expected}


@pytest.fixture
def tokens(root: Caller, project: str) -> list[str]:
    """A token of each kind and mode that proves a key."""
    made = [
        new_key(root, project, kind, mode=mode).secret_key
        for kind in ("SECRET", "RESTRICTED")
        for mode in (key_pb2.KEY_MODE_TEST, key_pb2.KEY_MODE_LIVE)
    ]
    return [str(token) for token in made]


@one_server
def test_damaged_token_is_malformed(root: Caller, tokens: list[str]) -> None:
    """The check digits detect a changed character at any position."""
    for token in tokens[:2]:
        damaged = [*changed(token), *dressed(token), *with_prefixes(token)]
        assert {} == not_as("MALFORMED", verdicts(root, damaged))


@one_server
def test_token_with_valid_check_digits_is_unknown(root: Caller, tokens: list[str]) -> None:
    """Check digits prove nothing: another secret, key, kind or mode is no key."""
    for token in tokens:
        exchanged = (mended(one) for one in with_prefixes(token) if one.isascii())
        forged = {one for one in (*exchanged, *_forged(token)) if parse(one)} - {token}
        assert {} == not_as("UNKNOWN", verdicts(root, forged))
        assert len(forged) > 100


def _forged(token: str) -> Iterator[str]:
    for one in changed(token):
        if one.isascii() and len(one) == len(token):
            yield mended(one)


@one_server
def test_token_of_invalid_form_is_malformed_despite_valid_check_digits(
    root: Caller, tokens: list[str]
) -> None:
    """Wrong length, prefix or alphabet."""
    ascii_ones = [one for token in tokens for one in changed(token) if one.isascii()]
    formless = [mended(one) for one in ascii_ones if len(one) != len(tokens[0])]
    formless += [mended(prefix + tokens[0][8:]) for prefix in OTHER_PREFIXES[1:]]
    formless += [
        mended(tokens[0][:29] + digits + "xxxxxx") for digits in ("z" * 43, "Z" * 42 + "_")
    ]
    assert {} == not_as("MALFORMED", verdicts(root, formless))


@one_server
def test_nearly_right_secret_is_refused_as_a_credential(
    root: Caller, nobody: Caller, tokens: list[str]
) -> None:
    """No variant of the secret is accepted, and the key stays as it was."""
    token = tokens[0]
    some = [*changed(token)][::29] + [*dressed(token)][::5] + [*with_prefixes(token)]
    some += [mended(one) for one in some if one.isascii() and one]
    for one in dict.fromkeys(some):
        if one == token:
            continue
        for request in (
            pb.GetProjectIdRequest(secret_key=one),
            pb.RevokeKeyRequest(secret_key=one),
        ):
            if one or isinstance(request, pb.GetProjectIdRequest):
                assert "UNAUTHENTICATED" == nobody.refused(request).code.name, one[:100]
    assert nobody.ask(pb.GetProjectIdRequest(secret_key=token)).project_id
    assert revoke(nobody, secret_key=token).key.access_key == token[8:28]


@each_transport
def test_nearly_right_operator_token_is_unauthenticated(root: Caller) -> None:
    """All variants of a caller's credential get one error text."""
    operator = new_operator(root, "keys:verify")
    token = operator.metadata[0][1].removeprefix("Bearer ")
    some = [*[*changed(token)][::17], *with_prefixes(token)]
    some += [mended(one) for one in some if one.isascii() and one]
    statuses = set()
    for one in dict.fromkeys(some):
        if one == token or not one.isascii() or one != one.strip():
            continue  # no metadata can hold it, or it is the right one between spaces
        refused = root.bearing(("x-auth-token", one)).refused(pb.VerifyRequest())
        statuses.add((refused.reason, refused.status))
    assert 1 == len(statuses)
    assert {"CREDENTIAL_INVALID"} == {reason for reason, _ in statuses}


class Looked(Exception):
    """The store was asked."""


async def test_damaged_token_is_not_looked_up() -> None:
    """The store is read for no key on bad check digits, and for one on good ones."""
    context = Mock()
    context.records.read = AsyncMock(side_effect=Looked)
    context.records.catch_up.return_value = False
    context.fails_outline_check.return_value = False
    context.cached_operator.return_value = None
    context.imported.find = AsyncMock(return_value={})
    context.present = AsyncMock(return_value=None)
    judge = Verification(context, Mock(), Mock(is_full=False))
    good = make(KeyKind.SECRET, KeyMode.LIVE, new_access_key(), new_secret()).reveal()
    operator = make(KeyKind.OPERATOR, KeyMode.LIVE, new_access_key(), new_secret()).reveal()
    read = parse(operator)
    assert read is not None
    credential = Credential(read, operator, "127.0.0.1")
    for token in (good, *list(changed(good))[::7], *dressed(good), *with_prefixes(good)):
        context.records.read.reset_mock()
        with pytest.raises(Looked):
            await judge.verify(credential, VerifyQuery(token, facts=Facts()))
        expected = [good[8:28]] if token == good else []
        assert (expected, operator[8:28]) == context.records.read.await_args.args[:2]
        if token != good:
            context.records.read.reset_mock()
            with pytest.raises(Unauthenticated):
                await judge.project_id(token, "")
            assert not context.records.read.await_count
