"""Hostile messages, built from the descriptors with values known to break parsers."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Final, cast

from google.protobuf import message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from tests.service.callers import ABSENT_KEY, BASE62, METHODS, mended

TEXTS: Final = (
    *("", " ", "x", "x" * 200, "x" * 201, "x" * 5_000, "*", "*:*", "a:b", "a.*:b", "-1", "0"),
    *("\0", "a\r\nb", "\x1b[31m", "\u202etxt.exe", "\u2028", "\ufeff", "\u200b", "\U0001f511" * 70),
    *("e\u0301", "\u00e9", "\ufb01", "\uff21", "\u0130", "\u1e9e", "\ud7ff\ue000", "\U0010ffff"),
    *("' OR 1=1 --", '"; DROP TABLE key; --', "$(id)", "`id`", "%s%n%x", "{0.__class__}"),
    *("${jndi:ldap://127.0.0.1/a}", "{{7*7}}", "<script>", "../../etc", "%00", "\\x00"),
    *("::1", "0.0.0.0/0", "::ffff:127.0.0.1", "1.2.3.4.5", "fe80::1%lo", "https://a/*", "//["),
    *("00000000-0000-4000-8000-000000000000", ABSENT_KEY, "KA" + "U" * 18, "deadbeef" * 5),
)
NUMBERS: Final = (0, 1, -1, 2, 1000, 1001, 2**31 - 1, -(2**31), 2**53, 2**63 - 1, -(2**63))
TAME: Final = (0, 1, 2, 60, 2_000_000_000)
MOMENTS: Final = (*NUMBERS, -62_135_596_801, 253_402_300_799, 253_402_300_800, 4_000_000_000)
NANOS: Final = (0, 1, 1_000, 999_999_999, 1_000_000_000, -1, 2**31 - 1, -(2**31))
COUNTS: Final = (0, 1, 1, 2, 3, 101)
PATHS: Final = ("purpose", "labels", "expire_time", "disabled", "*", "", "update_mask", "a.b.c")

PRESENT: Final = (0.1, 0.3, 0.5, 1.0)  # of the fields of a message
WILD: Final = (0.0, 0.05, 0.2, 0.6)  # of the values: the tame ones lead past the first check
DEPTH_MAX: Final = 4


class Source:
    """Draws messages, the same ones for the same seed. `known` holds existing values by field."""

    def __init__(self, seed: object, known: dict[str, Sequence[str]]) -> None:
        self.random = random.Random(f"{seed}")
        self._known = known
        self._present = self._wild = 0.0

    def structured(self, method: str) -> bytes:
        """A request of the right shape; its values are good ones, or of the wrong kind, or both."""
        self._present, self._wild = self.random.choice(PRESENT), self.random.choice(WILD)
        request = message_factory.GetMessageClass(METHODS[method].input_type)()
        self._fill(request, cast("Descriptor", request.DESCRIPTOR), DEPTH_MAX)
        return request.SerializeToString()

    def noise(self) -> bytes:
        """Bytes without sense."""
        return self.random.randbytes(self.random.randrange(200))

    def damaged(self, body: bytes) -> bytes:
        """The bytes with some changed, cut out, doubled or put behind."""
        for _ in range(self.random.randrange(1, 4)):
            place = self.random.randrange(len(body) + 1)
            end = self.random.randrange(place, len(body) + 1)
            middle = self.random.choice(
                (b"", body[place:end] * 2, self.random.randbytes(1), b"\xff" * 10, b"\xed\xa0\x80")
            )
            body = body[:place] + middle + body[self.random.choice((place, place + 1, end)) :]
        return body

    def token(self, token: str) -> str:
        """A token that is nearly this one; in a third of the cases its check digits are right."""
        text, place = token, self.random.randrange(len(token))
        for _ in range(self.random.choice((1, 1, 2))):
            other = self.random.choice((*BASE62, "", text[place] * 2, " ", "_", "\0", "\u0661"))
            text = text[:place] + other + text[place + 1 :]
            place = self.random.randrange(len(text))
        if self.random.random() < 0.2:
            text = self.random.choice(("sk_live_", "rk_test_", "pk_test_", "op_live_")) + text[8:]
        return mended(text) if text.isascii() and self.random.random() < 0.33 else text

    def _fill(self, message: Message, shape: Descriptor, depth: int) -> None:
        for field in shape.fields:
            if self.random.random() < self._present:
                self._set(message, field, depth)

    def _set(self, message: Message, field: FieldDescriptor, depth: int) -> None:
        held = getattr(message, field.name)
        if not field.is_repeated:
            if field.message_type is None:
                setattr(message, field.name, self._value(field))
            elif depth:
                held.SetInParent()
                self._fill(held, field.message_type, depth - 1)
            return
        entry = field.message_type
        for _ in range(self.random.choice(COUNTS) if self._is_wild() else 1):
            if entry is None:
                held.append(self._value(field))
            elif entry.GetOptions().map_entry:
                held[self._text("label")] = self._text("label")
            elif depth:
                self._fill(held.add(), entry, depth - 1)

    def _is_wild(self) -> bool:
        return self.random.random() < self._wild

    def _value(self, field: FieldDescriptor) -> Any:
        if field.enum_type is not None:
            known = [value.number for value in field.enum_type.values]
            return self.random.choice((99, -1, 2**31 - 1) if self._is_wild() else known)
        if field.type == FieldDescriptor.TYPE_STRING:
            return self._text(field.name)
        if field.type == FieldDescriptor.TYPE_BOOL:
            return self.random.random() < 0.5
        if not self._is_wild():
            return 0 if field.name == "nanos" else self.random.choice(TAME)
        if field.name == "nanos":
            return self.random.choice(NANOS)
        if field.type == FieldDescriptor.TYPE_INT32:
            return self.random.choice([one for one in NUMBERS if abs(one) <= 2**31 - 1])
        return self.random.choice(MOMENTS if field.name == "seconds" else NUMBERS)

    def _text(self, name: str) -> str:
        if not self._is_wild():
            return self.random.choice(self._known.get(name, ("",)))
        return self.random.choice(PATHS if name == "paths" else TEXTS)
