"""The grammar of tokens: building, parsing, and finding them in text.

Pure functions, standard library only.

    secret key   = kind "_" mode "_" access_key "_" secret check      kind: sk | rk | op
    publishable  = "pk" "_" mode "_" access_key "_" check
    access_key   = "KA" and 18 digits of Crockford's base 32, upper case: 90 random bits
    secret       = 43 base62 digits: a 256-bit number
    check        = 6 base62 digits: CRC-32 (IEEE) of all characters before it
"""

from __future__ import annotations

import re
import secrets
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
_ACCESS_KEY_AT: Final = slice(8, 28)  # after "sk_test_"
_SECRET_AT: Final = slice(29, 29 + _SECRET_DIGITS)
_LENGTH: Final = 78
_PUBLISHABLE_LENGTH: Final = 35

ACCESS_KEY_PATTERN: Final = re.compile(rf"KA[{_BASE32}]{{18}}", re.ASCII)
"""Matches an access key; use it with ``fullmatch``."""

TOKEN_PATTERN: Final = re.compile(
    r"(?<![0-9A-Za-z])"
    rf"(?:(?:(?:sk|rk)_(?:test|live)|op_live)_KA[{_BASE32}]{{18}}_[0-9A-Za-z]{{49}}"
    rf"|pk_(?:test|live)_KA[{_BASE32}]{{18}}_[0-9A-Za-z]{{6}})"
    r"(?![0-9A-Za-z])",
    re.ASCII,
)
"""Finds tokens in text: logs, repositories, tickets.

It anchors on ``_KA``, since tokens of other vendors also begin with ``sk_live_``. Pass each match
to `parse` to discard those with wrong check digits.
"""

_PREFIXES: Final = {
    f"{prefix}_{mode.value}_": (kind, mode)
    for prefix, kind, modes in (
        ("sk", KeyKind.SECRET, (KeyMode.TEST, KeyMode.LIVE)),
        ("rk", KeyKind.RESTRICTED, (KeyMode.TEST, KeyMode.LIVE)),
        ("pk", KeyKind.PUBLISHABLE, (KeyMode.TEST, KeyMode.LIVE)),
        ("op", KeyKind.OPERATOR, (KeyMode.LIVE,)),
    )
    for mode in modes
}
_PREFIX_OF: Final = {names: prefix for prefix, names in _PREFIXES.items()}


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
    length = len(text)
    if length != _LENGTH and length != _PUBLISHABLE_LENGTH:
        return None
    names = _PREFIXES.get(text[:8])
    if names is None or (names[0] is KeyKind.PUBLISHABLE) != (length == _PUBLISHABLE_LENGTH):
        return None
    if TOKEN_PATTERN.fullmatch(text) is None:
        return None
    if _decode62(text[-_CHECK_DIGITS:]) != crc32(text[:-_CHECK_DIGITS].encode("ascii")):
        return None
    if length == _LENGTH and text[_SECRET_AT] > _SECRET_MAX:  # base62 digits sort as ASCII does
        return None
    return Token(*names, AccessKey(text[_ACCESS_KEY_AT]))


def make(
    kind: KeyKind, mode: KeyMode, access_key: AccessKey, secret: int | None = None
) -> SecretKey:
    """Return the token of a key.

    `secret` is a number below 2**256; None for a publishable key. Raises ValueError for parts that
    do not form a valid token.
    """
    prefix = _PREFIX_OF.get((kind, mode))
    if prefix is None:
        raise ValueError(f"no token is of kind {kind} and mode {mode}")
    if ACCESS_KEY_PATTERN.fullmatch(access_key) is None:
        raise ValueError("not an access key")
    if (secret is None) != (kind is KeyKind.PUBLISHABLE):
        raise ValueError("a publishable key has no secret, and every other has one")
    if secret is not None and not 0 <= secret < 2**SECRET_BITS:
        raise ValueError("a secret is a number of 256 bits")
    digits = "" if secret is None else _encode62(secret, _SECRET_DIGITS)
    body = f"{prefix}{access_key}_{digits}"
    return SecretKey(body + _encode62(crc32(body.encode("ascii")), _CHECK_DIGITS))


def new_access_key() -> AccessKey:
    """Return a fresh access key: 90 bits of the system's randomness."""
    number = secrets.randbits(ACCESS_KEY_BITS)
    return AccessKey(
        "KA" + "".join(_BASE32[number >> 5 * digit & 31] for digit in range(17, -1, -1))
    )


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
