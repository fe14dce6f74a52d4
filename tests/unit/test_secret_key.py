"""The secret type: redacted when printed, the plain token when passed on."""

from __future__ import annotations

import copy
import dataclasses
import functools
import io
import json
import logging
import pickle
import pprint
import string
import traceback
from collections.abc import Callable
from typing import NamedTuple

import pytest

from keyauthority.token import SecretKey

TOKEN = "sk_live_KA7Q2M9X4T8B3N6W5R1P_yhjskwdA6OZ1AL1YmHWZWm8LLG7HjnuCA2j5rOw8Xp12KAT3G"
SECRET = SecretKey(TOKEN)


@dataclasses.dataclass
class Holder:
    """Something that holds a secret, as the answer of CreateKey does."""

    secret_key: SecretKey


class Pair(NamedTuple):
    """Something else that holds a secret."""

    name: str
    secret_key: SecretKey


def _chained() -> str:
    """The report of an error from an error from an error, each of which was given the secret."""
    try:
        try:
            try:
                raise KeyError(SECRET)
            except KeyError as first:
                raise ValueError(f"not {SECRET}", SECRET) from first
        except ValueError:
            raise ExceptionGroup("several", [RuntimeError(SECRET), OSError(1, SECRET)])  # noqa: B904 the context is the matter here
    except ExceptionGroup as group:
        return "".join(traceback.format_exception(group))


def _printed() -> str:
    out = io.StringIO()
    print(SECRET, [SECRET], file=out)
    return out.getvalue()


SHOWN: dict[str, Callable[[], str]] = {
    "repr": lambda: repr(SECRET),
    "str": lambda: str(SECRET),
    "ascii": lambda: ascii(SECRET),
    "format": lambda: format(SECRET),
    "format with a width": lambda: f"{SECRET:>90}",
    "f-string": lambda: f"{SECRET} {SECRET!s} {SECRET!r} {SECRET!a}",
    "str.format": lambda: "{0} {0!r}".format(SECRET),  # noqa: UP032 the method is the matter here
    "percent s": lambda: "%s" % SECRET,  # noqa: UP031 the operator is the matter here
    "percent r": lambda: "%r" % SECRET,  # noqa: UP031 as above
    "in a list": lambda: str([SECRET]),
    "in a dict": lambda: str({"secret": SECRET}),
    "in a dataclass": lambda: repr(Holder(SECRET)),
    "pprint": lambda: pprint.pformat({"secret": SECRET, "list": [SECRET]}),
    "print": _printed,
    "exception": lambda: str(ValueError(SECRET)) + repr(ValueError(SECRET)),
    "key error": lambda: str(KeyError(SECRET)),
    "chained errors": _chained,
    "repr with a width": lambda: f"{SECRET!r:>100}",
    "str with a precision": lambda: f"{SECRET!s:.200}",
    "in a set": lambda: str({SECRET, frozenset({SECRET})}),
    "in a named tuple": lambda: repr(Pair("one", SECRET)) + str(Pair("one", SECRET)._asdict()),
    "as a dictionary of a dataclass": lambda: str(dataclasses.asdict(Holder(SECRET))),
    "replaced in a dataclass": lambda: repr(dataclasses.replace(Holder(SECRET))),
    "in a partial": lambda: repr(functools.partial(print, SECRET, end=SECRET)),
    "template": lambda: string.Template("$secret").substitute(secret=SECRET),
}


@pytest.mark.parametrize("way", SHOWN)
def test_secret_is_redacted_in_every_display(way: str) -> None:
    """No part of the token is displayed."""
    shown = SHOWN[way]()
    assert "**********" in shown
    assert "KA7Q2M9X4T8B3N6W5R1P" not in shown
    assert "yhjskwd" not in shown


def test_secret_is_redacted_in_logs(caplog: pytest.LogCaptureFixture) -> None:
    """Neither as message nor as argument does a line show the token."""
    logger = logging.getLogger("a service")
    with caplog.at_level(logging.DEBUG):
        logger.debug("secret %s", SECRET)
        logger.debug("secret %r", SECRET)
        logger.debug(SECRET)
        try:
            raise ValueError(SECRET)
        except ValueError:
            logger.exception("failed with %s", SECRET, extra={"secret_key": SECRET})
    assert 4 == len(caplog.messages)
    assert "yhjskwd" not in "".join(caplog.messages) + caplog.text


def test_secret_is_redacted_in_tracebacks() -> None:
    """A traceback with local variables shows it redacted."""

    def fail(secret_key: SecretKey) -> None:
        raise RuntimeError(f"failed with {secret_key}")

    with pytest.raises(RuntimeError) as raised:
        fail(SECRET)
    report = traceback.TracebackException.from_exception(raised.value, capture_locals=True)
    text = "".join(report.format())
    assert "secret_key = SecretKey('**********')" in text
    assert "yhjskwd" not in text


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_secret_refuses_pickling(protocol: int) -> None:
    """Alone and inside of another object."""
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(SECRET, protocol)
    with pytest.raises(TypeError, match="cannot be pickled"):
        pickle.dumps(Holder(SECRET), protocol)


def test_secret_copies_to_itself() -> None:
    """It is immutable, and records that hold it can be copied."""
    assert SECRET is copy.copy(SECRET)
    assert SECRET is copy.deepcopy(SECRET)
    assert SECRET is dataclasses.asdict(Holder(SECRET))["secret_key"]


def test_revealed_secret_is_the_plain_token() -> None:
    """`reveal` returns a plain string."""
    revealed = SECRET.reveal()
    assert TOKEN == revealed
    assert type(revealed) is str


def test_secret_passed_on_is_the_token() -> None:
    """Compared, joined, encoded, written and in JSON it is the token."""
    assert TOKEN == SECRET
    assert TOKEN == "".join([SECRET])
    assert TOKEN.encode() == SECRET.encode()
    assert f'"{TOKEN}"' == json.dumps(SECRET)
    out = io.StringIO()
    out.write(SECRET)
    assert TOKEN == out.getvalue()
