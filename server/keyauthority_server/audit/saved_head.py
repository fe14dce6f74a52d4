"""A saved head: where the log ended once, kept apart from it, so that a cut tail is found.

A file of one JSON object: `log_id`, `revision`, `hash` (hexadecimal). It holds no secret, and can
be made only with a log that was verified; whoever can write it can hide what he cuts.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple, Self

from keyauthority_server.private_files import explain, write_private


class HeadError(Exception):
    """A file of a saved head cannot be used; the message is one line for an operator."""


class SavedHead(NamedTuple):
    """A log, and the revision and hash that it ended with."""

    log_id: str
    revision: int
    hash: bytes

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file; HeadError if it is missing or holds no head."""
        try:
            content = json.loads(path.read_text(encoding="ascii"))
            log_id, revision = content["log_id"], content["revision"]
            if type(log_id) is not str or type(revision) is not int:
                raise ValueError("not the types of a head")
            return cls(log_id, revision, bytes.fromhex(content["hash"]))
        except OSError as error:
            raise HeadError(f"cannot read {path}: {error.strerror}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise HeadError(f"{path} holds no saved head") from error

    def save(self, path: Path) -> None:
        """Write the file durably, all or nothing, in place of what is there; else HeadError."""
        content = {"log_id": self.log_id, "revision": self.revision, "hash": self.hash.hex()}
        try:
            write_private(path, json.dumps(content) + "\n", replace=True)
        except OSError as error:
            raise HeadError(explain(error, f"cannot make {path}")) from error
