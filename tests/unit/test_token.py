"""The token grammar: parsing, rejection, and the pattern for text scans."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyauthority.model import KeyKind, KeyMode
from keyauthority.token import (
    ACCESS_KEY_PATTERN,
    TOKEN_PATTERN,
    TOKEN_PREFIX_PATTERN,
    AccessKey,
    Token,
    find_tokens,
    make,
    new_access_key,
    new_secret,
    parse,
)

BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
BASE32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


class Vector(NamedTuple):
    """A token of the contract, and its parts."""

    token: str
    says: Token
    secret: int | None


def _vectors() -> list[Vector]:
    path = Path(__file__).parent.parent / "vectors/tokens.json"
    return [
        Vector(
            entry["token"],
            Token(KeyKind(entry["kind"]), KeyMode(entry["mode"]), AccessKey(entry["access_key"])),
            None if entry["secret"] is None else int(entry["secret"]),
        )
        for entry in json.loads(path.read_text(encoding="utf-8"))["tokens"]
    ]


VECTORS = _vectors()
TOKENS = [vector.token for vector in VECTORS]
A_TOKEN = TOKENS[1]

each_vector = pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.token[:8])
each_token = pytest.mark.parametrize("token", TOKENS, ids=lambda token: token[:8])

access_keys = st.text(BASE32, min_size=18, max_size=18).map(lambda text: AccessKey("KA" + text))
secrets = st.integers(0, 2**256 - 1)
kinds_and_modes = st.sampled_from(
    [
        (KeyKind.SECRET, KeyMode.TEST),
        (KeyKind.SECRET, KeyMode.LIVE),
        (KeyKind.RESTRICTED, KeyMode.TEST),
        (KeyKind.RESTRICTED, KeyMode.LIVE),
        (KeyKind.OPERATOR, KeyMode.LIVE),
    ]
)


def _base62(number: int, width: int) -> str:
    digits = ""
    for _ in range(width):
        number, value = divmod(number, 62)
        digits = BASE62[value] + digits
    return digits


def _with_check(body: str) -> str:
    """Return the body with the check digits that it should have."""
    return body + _base62(crc32(body.encode("ascii")), 6)


@each_vector
def test_vector_parses_to_its_parts(vector: Vector) -> None:
    """The tokens of the contract parse."""
    assert vector.says == parse(vector.token)


@each_vector
def test_vector_is_built_from_its_parts(vector: Vector) -> None:
    """Building from the parts gives the tokens of the contract."""
    made = make(vector.says.kind, vector.says.mode, vector.says.access_key, vector.secret)
    assert vector.token == made.reveal()


@given(kinds_and_modes, access_keys, secrets)
def test_built_token_parses_to_its_parts(
    kind_and_mode: tuple[KeyKind, KeyMode], access_key: AccessKey, secret: int
) -> None:
    """`parse` reads the output of `make`."""
    token = make(*kind_and_mode, access_key, secret)
    assert Token(*kind_and_mode, access_key) == parse(token)
    assert len(token) == 78


@given(st.sampled_from(KeyMode), access_keys)
def test_built_publishable_token_parses_to_its_parts(mode: KeyMode, access_key: AccessKey) -> None:
    """A publishable key has 35 characters and no secret."""
    token = make(KeyKind.PUBLISHABLE, mode, access_key)
    assert Token(KeyKind.PUBLISHABLE, mode, access_key) == parse(token)
    assert len(token) == 35


prefixes = st.from_regex(TOKEN_PREFIX_PATTERN, fullmatch=True)


@given(kinds_and_modes, access_keys, secrets, prefixes)
def test_token_with_a_prefix_parses_to_its_parts(
    kind_and_mode: tuple[KeyKind, KeyMode], access_key: AccessKey, secret: int, prefix: str
) -> None:
    """The prefix of the deployment stands before the kind, and the pattern matches the whole."""
    token = make(*kind_and_mode, access_key, secret, prefix)
    assert token.startswith(f"{prefix}_")
    assert Token(*kind_and_mode, access_key) == parse(token)
    assert TOKEN_PATTERN.fullmatch(token)


@given(prefixes, prefixes)
def test_prefix_is_covered_by_the_check_digits(one: str, other: str) -> None:
    """A prefix that is taken away, added or exchanged makes the token malformed."""
    bare = make(KeyKind.SECRET, KeyMode.LIVE, new_access_key(), new_secret()).reveal()
    token = _with_check(f"{one}_{bare[:-6]}")
    assert parse(token)
    for changed in (token.removeprefix(f"{one}_"), f"{one}_{bare}", f"{one}_{token}"):
        assert parse(changed) is None
    exchanged = f"{other}_{token.removeprefix(f'{one}_')}"
    assert (parse(exchanged) is None) is (one != other)


@pytest.mark.parametrize(
    "prefix", ["sk", "rk", "pk", "op", "a", "1a", "Acme", "a" * 17, "a_b", "a-b", "\u00e4b", "ab\n"]
)
def test_invalid_prefix_builds_and_parses_no_token(prefix: str) -> None:
    """A kind, a wrong length, another alphabet."""
    access_key, secret = new_access_key(), new_secret()
    with pytest.raises(ValueError, match="prefix"):
        make(KeyKind.SECRET, KeyMode.LIVE, access_key, secret, prefix)
    bare = make(KeyKind.SECRET, KeyMode.LIVE, access_key, secret).reveal()
    assert parse(f"{prefix}_{bare}") is None
    if prefix.isascii():
        assert parse(_with_check(f"{prefix}_{bare[:-6]}")) is None


@given(st.sampled_from(("", "acme", "a2", "a" * 16)), st.sampled_from(KeyMode))
def test_tokens_are_found_directly_after_other_text(prefix: str, mode: KeyMode) -> None:
    """Letters of escaped text and words with an underscore do not hide a token."""
    tokens = [
        make(KeyKind.SECRET, mode, new_access_key(), new_secret(), prefix).reveal(),
        make(KeyKind.PUBLISHABLE, mode, new_access_key(), None, prefix).reveal(),
    ]
    for before in ("", "key_", "\\n", "x", "my9", "_", "secret_key_", "A", "="):
        text = f"{before}{tokens[0]},{before}{tokens[1]}"
        assert tokens == [text[start:end] for start, end, _ in find_tokens(text)]
    assert [] == list(find_tokens(tokens[0][:-1] + "," + tokens[0] + "x"))


@each_token
def test_changed_character_is_rejected(token: str) -> None:
    """The check digits detect every change of one character."""
    for place, was in enumerate(token):
        for other in BASE62 + "_-. \n\0é٣":
            if other != was:
                assert parse(token[:place] + other + token[place + 1 :]) is None


@each_token
def test_dropped_character_is_rejected(token: str) -> None:
    """A token with a missing character does not parse."""
    for place in range(len(token)):
        assert parse(token[:place] + token[place + 1 :]) is None


@each_token
def test_doubled_character_is_rejected(token: str) -> None:
    """A token with a repeated character does not parse."""
    for place in range(len(token)):
        assert parse(token[:place] + token[place] + token[place:]) is None


@each_token
def test_swapped_neighbours_are_rejected(token: str) -> None:
    """Two different neighbours swapped do not parse."""
    for place in range(len(token) - 1):
        first, second = token[place], token[place + 1]
        if first != second:
            assert parse(token[:place] + second + first + token[place + 2 :]) is None


@each_token
@pytest.mark.parametrize("prefix", ["sk_test_", "sk_live_", "rk_test_", "rk_live_", "op_live_"])
def test_changed_prefix_is_rejected(token: str, prefix: str) -> None:
    """The check digits cover the prefix."""
    if not token.startswith(prefix):
        assert parse(prefix + token[8:]) is None


@pytest.mark.parametrize("prefix", ["sk_test_", "sk_live_", "rk_test_", "rk_live_", "op_live_"])
def test_changed_prefix_with_recomputed_check_parses(prefix: str) -> None:
    """The check proves nothing: another prefix is another token."""
    mended = _with_check(prefix + A_TOKEN[8:-6])
    says = parse(mended)
    assert says is not None
    assert prefix == mended[:8]
    assert "KA7Q2M9X4T8B3N6W5R1P" == says.access_key


@pytest.mark.parametrize(
    "body",
    [
        "op_test_" + A_TOKEN[8:-6],
        "xx_live_" + A_TOKEN[8:-6],
        "SK_LIVE_" + A_TOKEN[8:-6],
        "sk-live-" + A_TOKEN[8:-6],
        "pk_live_" + A_TOKEN[8:-6],
        "sk_live_KAGHJKMNPQRSTVWXYZ01_",
        "sk_live_KA7Q2M9X4T8B3N6W5R1I_" + A_TOKEN[29:-6],
        "sk_live_ka7q2m9x4t8b3n6w5r1p_" + A_TOKEN[29:-6],
        "sk_live_XX7Q2M9X4T8B3N6W5R1P_" + A_TOKEN[29:-6],
        "sk_live_KA7Q2M9X4T8B3N6W5R1P-" + A_TOKEN[29:-6],
        "pk_test_KAGHJKMNPQRSTVWXYZ01-",
    ],
)
def test_invalid_form_is_rejected_despite_a_valid_check(body: str) -> None:
    """Valid check digits do not make a token of an invalid form."""
    assert parse(_with_check(body)) is None


@pytest.mark.parametrize("beyond", [0, 1, 62**43 - 1 - 2**256])
def test_secret_of_2_256_or_more_is_rejected(beyond: int) -> None:
    """A secret is below 2**256, although 43 digits can exceed it."""
    body = "sk_live_KA7Q2M9X4T8B3N6W5R1P_" + _base62(2**256 + beyond, 43)
    assert parse(_with_check(body)) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "_" * 78,
        A_TOKEN + "\n",
        "\n" + A_TOKEN,
        A_TOKEN + " ",
        " " + A_TOKEN[1:],
        A_TOKEN[:-1] + "\n",
        A_TOKEN + "=",
        A_TOKEN + "\0",
        A_TOKEN.upper(),
        A_TOKEN.lower(),
        A_TOKEN.swapcase(),
        "Bearer " + A_TOKEN,
        A_TOKEN * 2,
        "é" * 78,
        "\ud800" * 78,
        A_TOKEN[:-1] + "\ud800",
        A_TOKEN.replace("7", "\uff17"),
        A_TOKEN.replace("7", "\u0667"),
        A_TOKEN.replace("K", "\u212a"),
        "\ufeff" + A_TOKEN[1:],
        "s" * 2**20,
        A_TOKEN + "0" * 2**20,
    ],
    ids=ascii,
)
def test_text_that_is_not_a_token_is_rejected(text: str) -> None:
    """White space, case, padding, alphabet or length: no parse and no exception."""
    assert parse(text) is None


@given(st.text(st.characters(), max_size=100))
def test_any_text_is_parsed_without_an_exception(text: str) -> None:
    """Including unpaired surrogates."""
    assert parse(text) is None


@pytest.mark.parametrize(
    ("kind", "mode", "access_key", "secret"),
    [
        (KeyKind.OPERATOR, KeyMode.TEST, "KA7Q2M9X4T8B3N6W5R1P", 1),
        (KeyKind.SECRET, KeyMode.LIVE, "KA7Q2M9X4T8B3N6W5R1P", None),
        (KeyKind.PUBLISHABLE, KeyMode.LIVE, "KA7Q2M9X4T8B3N6W5R1P", 1),
        (KeyKind.PUBLISHABLE, KeyMode.LIVE, "KA7Q2M9X4T8B3N6W5R1P", 0),
        (KeyKind.SECRET, KeyMode.LIVE, "KA7Q2M9X4T8B3N6W5R1P", 2**256),
        (KeyKind.SECRET, KeyMode.LIVE, "KA7Q2M9X4T8B3N6W5R1P", -1),
        (KeyKind.SECRET, KeyMode.LIVE, "KA7Q2M9X4T8B3N6W5R1", 1),
        (KeyKind.SECRET, KeyMode.LIVE, "KA7Q2M9X4T8B3N6W5R1P\n", 1),
        (KeyKind.SECRET, KeyMode.LIVE, "", 1),
    ],
)
def test_invalid_parts_build_no_token(
    kind: KeyKind, mode: KeyMode, access_key: str, secret: int | None
) -> None:
    """Every built token parses."""
    with pytest.raises(ValueError, match=r"token|access key|publishable|256 bits"):
        make(kind, mode, AccessKey(access_key), secret)


def test_new_access_keys_are_wellformed_random_and_unique() -> None:
    """`KA` and 18 random digits of the alphabet."""
    made = [new_access_key() for _ in range(2_000)]
    assert all(re.fullmatch(rf"KA[{BASE32}]{{18}}", one) for one in made)
    assert all(ACCESS_KEY_PATTERN.fullmatch(one) for one in made)
    assert len(made) == len(set(made))
    for place in range(2, 20):
        assert set(BASE32) == {one[place] for one in made}


def test_new_secrets_are_random_and_unique() -> None:
    """Each of the 256 bits is random."""
    made = [new_secret() for _ in range(200)]
    assert all(0 <= one < 2**256 for one in made)
    assert len(made) == len(set(made))
    ones, zeros = 0, 0
    for one in made:
        ones |= one
        zeros |= ~one
    assert 2**256 - 1 == ones & (2**256 - 1)
    assert 2**256 - 1 == zeros & (2**256 - 1)


@each_token
@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "key={}",
        '"{}",',
        "<{}>",
        "a {}.",
        "({})",
        "X_{}_Y",
        "é{}é",
        "\n{}\n",
        "https://h/?k={}&x",
    ],
)
def test_pattern_finds_tokens_in_text(token: str, text: str) -> None:
    """A token is found wherever it stands alone."""
    assert [token] == TOKEN_PATTERN.findall(text.format(token))


@pytest.mark.parametrize(
    "text",
    [
        "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc",
        "rk_live_" + "a" * 99,
        "pk_test_" + "TYooMQauvdEDq54NiTphI7jx",
        "sk_test_" + "a" * 70,
        "x" + A_TOKEN,
        A_TOKEN + "x",
        "op_test_" + A_TOKEN[8:],
        "KA7Q2M9X4T8B3N6W5R1P",
    ],
)
def test_pattern_ignores_text_without_tokens(text: str) -> None:
    """Keys of other vendors and bare access keys do not match."""
    assert TOKEN_PATTERN.search(text) is None


@given(kinds_and_modes, access_keys, secrets)
def test_pattern_matches_every_built_token(
    kind_and_mode: tuple[KeyKind, KeyMode], access_key: AccessKey, secret: int
) -> None:
    """Scanners find every token."""
    assert TOKEN_PATTERN.fullmatch(make(*kind_and_mode, access_key, secret))
