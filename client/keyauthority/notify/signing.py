"""Secrets of a webhook, and signatures by them, as Standard Webhooks 1.0 says."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
from pathlib import Path
from typing import Final

from keyauthority.notify.settings import CannotNotify
from keyauthority.secret_files import warn_if_open

PREFIX: Final = "whsec_"
BYTES_MIN: Final = 24
BYTES_MAX: Final = 64
SECRETS_MAX: Final = 10  # signatures of a request; a rotation needs two

_log: Final = logging.getLogger("keyauthority.notify")


def parse_secrets(text: str) -> tuple[bytes, ...]:
    """Return the secrets of a file: one per line, `whsec_` and base64 of 24 to 64 bytes.

    Empty lines and lines that begin with `#` are skipped. Raises ValueError with the number of the
    bad line, never its text.
    """
    found: list[bytes] = []
    for number, line in enumerate(map(str.strip, text.splitlines()), start=1):
        if not line or line.startswith("#"):
            continue
        try:
            secret = base64.b64decode(_padded(line.removeprefix(PREFIX)), validate=True)
        except (binascii.Error, ValueError):
            secret = b""
        if not line.startswith(PREFIX) or not BYTES_MIN <= len(secret) <= BYTES_MAX:
            raise ValueError(
                f"line {number} is no secret: write whsec_ and {BYTES_MIN} to {BYTES_MAX} bytes"
                " in base64"
            )
        found.append(secret)
    if not 0 < len(found) <= SECRETS_MAX:
        raise ValueError(f"holds {len(found)} secrets, not 1 to {SECRETS_MAX}")
    return tuple(found)


def _padded(text: str) -> str:
    return text + "=" * (-len(text) % 4)


class SecretFile:
    """The secrets in a file, which is read at each use, so that a rotation needs no restart."""

    def __init__(self, path: Path) -> None:
        """Read the file. Raises CannotNotify for one without usable secrets."""
        self._path = path
        self._secrets = self._read()
        self._failure = ""

    def latest(self) -> tuple[bytes, ...]:
        """Return the secrets of the file; while it is unusable, those that it had."""
        try:
            self._secrets, self._failure = self._read(), ""
        except CannotNotify as failed:
            if str(failed) != self._failure:
                self._failure = str(failed)
                _log.error("the secrets are not replaced: %s", failed)
        return self._secrets

    def _read(self) -> tuple[bytes, ...]:
        warn_if_open(self._path)
        try:
            return parse_secrets(self._path.read_text(encoding="ascii"))
        except OSError as error:
            reason = error.strerror or str(error)
        except UnicodeDecodeError:
            reason = "is not ASCII text"
        except ValueError as error:
            reason = str(error)
        raise CannotNotify(f"--secret-file: {self._path}: {reason}")


def sign(secrets: tuple[bytes, ...], event_id: str, timestamp: int, body: bytes) -> str:
    """Return the header `webhook-signature`: one signature per secret, in their order.

    `timestamp` is the time of the attempt, in seconds since the Unix epoch.
    """
    content = f"{event_id}.{timestamp}.".encode() + body
    macs = (hmac.digest(secret, content, hashlib.sha256) for secret in secrets)
    return " ".join(f"v1,{base64.b64encode(mac).decode()}" for mac in macs)
