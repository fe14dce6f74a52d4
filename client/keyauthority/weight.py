"""The memory that a decoded record takes, in usual records: caches are bounded by it.

A key may have a quarter of a megabyte of restrictions. With a bound on the number, a hundred
thousand such keys could fill the memory that is meant for as many usual ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from keyauthority.model import Key, Project

USUAL_BYTES: Final = 2_000  # a record with a few permissions, addresses and labels; weighs 1
_TEXT_BYTES: Final = 57  # overhead of a text in a tuple (CPython, 64 bits)
_COMPILED_BYTES: Final = 230  # overhead of a compiled permission or restriction
_WIDE: Final = 3  # bytes of a character in a non-ASCII text, including its cached UTF-8


def weight_of(record: Key | Project | None) -> int:
    """Return the weight of a decoded record: 1, plus 1 for each 2,000 bytes of its lists.

    It includes the form into which `keyauthority.decision` compiles a key.
    """
    if record is None:
        return 1
    size = _size([*record.labels.keys(), *record.labels.values()])
    if isinstance(record, Key):
        only = record.restrictions
        size += _size(record.operator_projects)
        compiled = [*record.permissions, *only.allowed_ips, *only.allowed_referrers]
        compiled += only.ios_bundle_ids
        for app in only.android_apps:
            compiled += (app.package, app.sha1)
        for target in only.api_targets:
            compiled += (target.service, *target.methods)
        size += _size(compiled) * 2 + len(compiled) * (_COMPILED_BYTES - _TEXT_BYTES)
    return 1 + size // USUAL_BYTES


def _size(texts: Sequence[str]) -> int:
    joined = "".join(texts)  # an iteration over 10,000 texts takes 2 ms, this 0.1
    return _TEXT_BYTES * len(texts) + len(joined) * (1 if joined.isascii() else _WIDE)
