"""A saved head: an earlier end of the log, stored apart from it to detect a truncated log.

A file of one JSON object: `log_id`, `revision`, `hash` (hexadecimal). It holds no secret, and is
written only after the log was verified. Write access to the file allows to hide a truncation.
"""

from __future__ import annotations

import json
from pathlib import Path

from keyauthority.model import LogId, Revision
from keyauthority_server.private_files import explain, write_private
from keyauthority_server.store.types import LogHead


class HeadError(Exception):
    """A saved-head file is unusable; the message is one line for an operator."""


def load_head(path: Path) -> LogHead:
    """Read a file; HeadError if it is missing or malformed."""
    try:
        content = json.loads(path.read_text(encoding="ascii"))
        log_id, revision = content["log_id"], content["revision"]
        if type(log_id) is not str or type(revision) is not int:
            raise ValueError("not the types of a head")
        return LogHead(LogId(log_id), Revision(revision), bytes.fromhex(content["hash"]))
    except OSError as error:
        raise HeadError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise HeadError(f"{path} holds no saved head") from error


def save_head(head: LogHead, path: Path) -> None:
    """Write or replace the file durably and atomically; HeadError on failure."""
    content = {"log_id": head.log_id, "revision": head.revision, "hash": head.hash.hex()}
    try:
        write_private(path, json.dumps(content) + "\n", replace=True)
    except OSError as error:
        raise HeadError(explain(error, f"cannot make {path}")) from error
