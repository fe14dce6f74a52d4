"""The grammar of tokens: building, parsing, and finding them in text.

Pure functions, standard library only.

    secret key   = [prefix "_"] kind "_" mode "_" access_key "_" secret check
                   kind: sk | rk | op
    publishable  = [prefix "_"] "pk" "_" mode "_" access_key "_" check
    prefix       = a letter and 1 to 15 letters or digits, lower case: that of the deployment
    access_key   = "KA" and 18 digits of Crockford's base 32, upper case: 90 random bits
    secret       = 43 base62 digits: a 256-bit number
    check        = 6 base62 digits: CRC-32 (IEEE) of all characters before it
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from typing import Final, NamedTuple, NewType, NoReturn, Self
from zlib import crc32

from keyauthority.model import KeyKind, KeyMode

AccessKey = NewType("AccessKey", str)

SECRET_BITS: Final = 256
ACCESS_KEY_BITS: Final = 90  # 18 digits of 5 bits

_BASE62: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_BASE32: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's: no I, L, O, U
_VALUE62: Final = {digit: value for value, digit in enumerate(_BASE62)}

_SECRET_DIGITS: Final = 43  # 62**43 > 2**256
_CHECK_DIGITS: Final = 6  # 62**6 > 2**32
_MARK: Final = "_KA"  # first found between the mode and the access key: a prefix has neither
_NAMES_LENGTH: Final = 7  # of "sk_test"
_ACCESS_KEY_LENGTH: Final = 20
_PREFIX_LENGTH_MAX: Final = 16
TOKEN_LENGTH_MAX: Final = 78 + _PREFIX_LENGTH_MAX + 1
"""Characters of the longest token: 78 without the prefix of a deployment."""

ACCESS_KEY_PATTERN: Final = re.compile(rf"KA[{_BASE32}]{{18}}", re.ASCII)
"""Matches an access key; use it with ``fullmatch``."""

_PREFIX: Final = rf"(?!(?:sk|rk|pk|op)(?![a-z0-9]))[a-z][a-z0-9]{{1,{_PREFIX_LENGTH_MAX - 1}}}"
TOKEN_PREFIX_PATTERN: Final = re.compile(_PREFIX, re.ASCII)
"""Matches the prefix of a deployment, without its underscore; use it with ``fullmatch``."""

TOKEN_PATTERN: Final = re.compile(
    r"(?<![0-9A-Za-z])"
    rf"(?:{_PREFIX}_)?"
    rf"(?:(?:(?:sk|rk)_(?:test|live)|op_live)_KA[{_BASE32}]{{18}}_[0-9A-Za-z]{{49}}"
    rf"|pk_(?:test|live)_KA[{_BASE32}]{{18}}_[0-9A-Za-z]{{6}})"
    r"(?![0-9A-Za-z])",
    re.ASCII,
)
"""Finds tokens in text: logs, repositories, tickets.

It anchors on ``_KA``, since tokens of other vendors also begin with ``sk_live_``. A match may begin
with a word that only stands before the token, as in ``key_sk_live_…``: `find_tokens` decides by the
check digits.
"""

_UNPREFIXED: Final = re.compile(
    rf"(?:(?:(?:sk|rk)_(?:test|live)|op_live)_KA[{_BASE32}]{{18}}_[0-9A-Za-z]{{49}}"
    rf"|pk_(?:test|live)_KA[{_BASE32}]{{18}}_[0-9A-Za-z]{{6}})"
    r"(?![0-9A-Za-z])",
    re.ASCII,
)
_PREFIX_BEFORE: Final = re.compile(r"[a-z0-9]{1,16}_\Z", re.ASCII)

_NAMES: Final = {
    f"{name}_{mode.value}": (kind, mode)
    for name, kind, modes in (
        ("sk", KeyKind.SECRET, (KeyMode.TEST, KeyMode.LIVE)),
        ("rk", KeyKind.RESTRICTED, (KeyMode.TEST, KeyMode.LIVE)),
        ("pk", KeyKind.PUBLISHABLE, (KeyMode.TEST, KeyMode.LIVE)),
        ("op", KeyKind.OPERATOR, (KeyMode.LIVE,)),
    )
    for mode in modes
}
_NAMES_OF: Final = {kind_and_mode: names for names, kind_and_mode in _NAMES.items()}


class SecretKey(str):
    """A token that is redacted when printed.

    It is a `str` and can be passed wherever a token is expected. str(), repr() and format() return
    a redacted text, pickling raises TypeError, and `reveal` returns the token. Operations on the
    string's content, such as join, encode and JSON encoding, still contain the token.
    """

    __slots__ = ()

    def reveal(self) -> str:
        """Return the token as a plain string."""
        return str.__str__(self)

    def __repr__(self) -> str:
        return "SecretKey('**********')"

    def __str__(self) -> str:
        return "**********"

    def __format__(self, spec: str) -> str:
        return format("**********", spec)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret key cannot be pickled: pickle the result of reveal() instead")

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        self.__reduce__()


class Token(NamedTuple):
    """The public parts of a well-formed token. They prove nothing; only the digest does."""

    kind: KeyKind
    mode: KeyMode
    access_key: AccessKey


def parse(text: str) -> Token | None:
    """Return the parts of the token; None if it is malformed or its check digits are wrong."""
    if len(text) > TOKEN_LENGTH_MAX or TOKEN_PATTERN.fullmatch(text) is None:
        return None
    if _decode62(text[-_CHECK_DIGITS:]) != crc32(text[:-_CHECK_DIGITS].encode("ascii")):
        return None
    at = text.index(_MARK)
    end = at + 1 + _ACCESS_KEY_LENGTH
    # base62 digits sort as ASCII does; a publishable key has none here
    if text[end + 1 : -_CHECK_DIGITS] > _SECRET_MAX:
        return None
    kind, mode = _NAMES[text[at - _NAMES_LENGTH : at]]
    return Token(kind, mode, AccessKey(text[at + 1 : end]))


def find_tokens(text: str) -> Iterator[tuple[int, int, Token]]:
    r"""Yield start, end and parts of each token in the text whose check digits are right.

    Words and letters directly before a token do not hide it: ``key_sk_live_…``, ``\nsk_live_…``.
    """
    for found in _UNPREFIXED.finditer(text):
        start, end = found.span()
        before = _PREFIX_BEFORE.search(text, max(0, start - _PREFIX_LENGTH_MAX - 1), start)
        starts = (start, *range(before.start(), start - 2)) if before else (start,)
        for each in starts:
            token = parse(text[each:end])
            if token is not None:
                yield each, end, token
                break


def make(
    kind: KeyKind,
    mode: KeyMode,
    access_key: AccessKey,
    secret: int | None = None,
    prefix: str = "",
) -> SecretKey:
    """Return the token of a key.

    `secret` is a number below 2**256; None for a publishable key. `prefix` is that of the
    deployment, empty for none. Raises ValueError for parts that do not form a valid token.
    """
    names = _NAMES_OF.get((kind, mode))
    if names is None:
        raise ValueError(f"no token is of kind {kind} and mode {mode}")
    if prefix and TOKEN_PREFIX_PATTERN.fullmatch(prefix) is None:
        raise ValueError("not a token prefix")
    if ACCESS_KEY_PATTERN.fullmatch(access_key) is None:
        raise ValueError("not an access key")
    if (secret is None) != (kind is KeyKind.PUBLISHABLE):
        raise ValueError("a publishable key has no secret, and every other has one")
    if secret is not None and not 0 <= secret < 2**SECRET_BITS:
        raise ValueError("a secret is a number of 256 bits")
    digits = "" if secret is None else _encode62(secret, _SECRET_DIGITS)
    body = f"{prefix}{'_' if prefix else ''}{names}_{access_key}_{digits}"
    return SecretKey(body + _encode62(crc32(body.encode("ascii")), _CHECK_DIGITS))


def new_access_key() -> AccessKey:
    """Return a fresh access key: 90 bits of the system's randomness."""
    number = secrets.randbits(ACCESS_KEY_BITS)
    digits = ""
    for _ in range(ACCESS_KEY_BITS // 5):
        number, digit = divmod(number, 32)
        digits = _BASE32[digit] + digits
    return AccessKey("KA" + digits)


def new_secret() -> int:
    """Return a fresh secret number: 256 bits of the system's randomness."""
    return secrets.randbits(SECRET_BITS)


def _encode62(number: int, digits: int) -> str:
    text = ""
    while number:
        number, value = divmod(number, 62)
        text = _BASE62[value] + text
    return text.rjust(digits, "0")


def _decode62(text: str) -> int:
    number = 0
    for digit in text:
        number = number * 62 + _VALUE62[digit]
    return number


_SECRET_MAX: Final = _encode62(2**SECRET_BITS - 1, _SECRET_DIGITS)
