"""A saved head: an earlier end of the log, stored apart from it to detect a truncated log.

A file of one JSON object: `log_id`, `revision`, `hash` (hexadecimal). It holds no secret, and is
written only after the log was verified. Write access to the file allows to hide a truncation.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple, Self

from keyauthority_server.private_files import explain, write_private


class HeadError(Exception):
    """A saved-head file is unusable; the message is one line for an operator."""


class SavedHead(NamedTuple):
    """The id of a log, and the revision and hash of its end."""

    log_id: str
    revision: int
    hash: bytes

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a file; HeadError if it is missing or malformed."""
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
        """Write or replace the file durably and atomically; HeadError on failure."""
        content = {"log_id": self.log_id, "revision": self.revision, "hash": self.hash.hex()}
        try:
            write_private(path, json.dumps(content) + "\n", replace=True)
        except OSError as error:
            raise HeadError(explain(error, f"cannot make {path}")) from error
