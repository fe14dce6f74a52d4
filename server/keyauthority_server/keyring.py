"""Secret keys stored in files next to the database: the pepper of digests, the audit key.

A file holds one line per version, `<version> <64 hexadecimal digits>`. The keys are never logged or
stored elsewhere: the database holds a check value of each version, which identifies a file and
reveals nothing of it. The current version is the highest in the database: a version that exists
only in the file is not active yet, and a lower one that the database lacks was dropped.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from keyauthority_server.private_files import explain, read_private, write_private

KEY_BYTES: Final = 32  # as long as the hash: more adds nothing (RFC 2104, section 3)


_VERSION: Final = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_LINE: Final = re.compile(r"([1-9][0-9]{0,8}) ([0-9a-f]{64})", re.ASCII)


class KeyringError(Exception):
    """A key file is missing, unsafe or damaged; the message is one line for an operator."""


class UnknownVersion(Exception):
    """The keyring lacks the version of a requested digest."""

    def __init__(self, version: int) -> None:
        super().__init__(f"no version {version}")
        self.version = version


class Keyring:
    """The versions of one secret key. Any thread may use it."""

    def __init__(self, path: Path, keys: Mapping[int, bytes]) -> None:
        self.path = path
        self.name = path.name
        self._hold(keys)

    def __repr__(self) -> str:
        return f"Keyring({self.name!r}, versions={list(self.versions)})"

    @classmethod
    def create(cls, path: Path) -> Keyring:
        """Create a file of mode 0600 with a first version; KeyringError if it exists."""
        keys = {1: secrets.token_bytes(KEY_BYTES)}
        with _making(path):
            write_private(path, _text(keys))
        return cls(path, keys)

    @classmethod
    def load(cls, path: Path) -> Keyring:
        """Read a file that only its owner may read; KeyringError otherwise."""
        return cls(path, _read(path))

    @property
    def versions(self) -> tuple[int, ...]:
        """All versions, in order."""
        return tuple(sorted(self._keys))

    def digest(self, message: bytes, version: int | None = None) -> bytes:
        """Return the HMAC-SHA-256 of a message under a version (default: the current one).

        Raises UnknownVersion.
        """
        try:
            key = self._keys[version or self.current]
        except KeyError as error:
            raise UnknownVersion(version or self.current) from error
        return hmac.digest(key, message, "sha256")

    def derive(self, purpose: str, version: int | None = None) -> bytes:
        """Return a key for one purpose, which reveals no other key."""
        return self.digest(b"keyauthority derive\0" + purpose.encode(), version)

    def check_values(self) -> Mapping[str, bytes]:
        """Return a check value of each version, by which the database identifies this file."""
        return {
            f"{self.name}/{version}": hashlib.sha256(self.derive("check value", version)).digest()
            for version in self.versions
        }

    def verify_against(self, known: Mapping[str, bytes]) -> None:
        """Raise KeyringError unless the file has every version in the database.

        `known` holds the database's check values, including those of other files.
        """
        own = self.check_values()
        for version in _versions(self.name, known):
            name = f"{self.name}/{version}"
            if not hmac.compare_digest(own.get(name, b""), known[name]):
                raise KeyringError(
                    f"{self.path} does not match the database: put the right file back "
                    f"(version {version})"
                )

    def use(self, known: Mapping[str, bytes]) -> None:
        """Switch to the versions in the database, reading missing ones from the file.

        A loaded version stays while the database has it, even if the file lacks it. A version that
        does not match its check value is left out. Raises KeyringError, and changes nothing, if a
        version is missing and the file cannot be read.
        """
        versions = _versions(self.name, known)
        if versions == list(self.versions) and self._known.issuperset(versions):
            return
        keys = {version: self._keys[version] for version in versions if version in self._keys}
        if len(keys) < len(versions):
            read = Keyring(self.path, _read(self.path))
            checks = read.check_values()
            for version in versions:
                name = f"{self.name}/{version}"
                if hmac.compare_digest(checks.get(name, b""), known[name]):
                    keys[version] = read._keys[version]
        if keys:
            self._hold(keys, max(versions), frozenset(versions))

    def dropped(self, version: int) -> bool:
        """True for a version that the database has dropped: absent, and below the newest."""
        return version < self.newest and version not in self._known

    def _hold(
        self,
        keys: Mapping[int, bytes],
        newest: int | None = None,
        known: frozenset[int] = frozenset(),
    ) -> None:
        self._keys = dict(keys)
        self.current = max(keys)
        """The default version."""
        self.newest = newest or self.current
        """The newest version in the database, loaded or not."""
        self._known = known or frozenset(keys)


def add_version(path: Path, known: Mapping[str, bytes]) -> int:
    """Add a version to a file, durably, unless one awaits activation; return its number.

    `known` holds the database's check values. The file changes atomically, even if killed.
    """
    with _alone(path):
        ring = Keyring.load(path)
        ring.verify_against(known)
        keys, newest = _read(path), max(_versions(ring.name, known))
        if max(keys) == newest:
            keys[newest + 1] = secrets.token_bytes(KEY_BYTES)
            with _making(path):
                write_private(path, _text(keys), replace=True)
        return max(keys)


def remove_version(path: Path, version: int) -> bool:
    """Remove a version from a file, durably; False if absent.

    Raises KeyringError if it is the only one.
    """
    with _alone(path):
        keys = _read(path)
        if version not in keys:
            return False
        del keys[version]
        if not keys:
            raise KeyringError(f"version {version} is the only one in {path}: add another first")
        with _making(path):
            write_private(path, _text(keys), replace=True)
        return True


def check_known(name: str, known: Mapping[str, bytes], used: Collection[int]) -> None:
    """Raise KeyringError unless the database has the check value of each used version.

    Without check values it would accept any file.
    """
    versions = set(_versions(name, known))
    missing = sorted(set(used) - versions)
    if missing or not versions:
        raise KeyringError(
            f"the database is damaged: it lacks the check value of {name}/"
            f"{missing[0] if missing else 1}, which it depends on; restore it"
        )


def newest_version(name: str, known: Mapping[str, bytes]) -> int:
    """Return the newest version of a file among the check values; 0 without one."""
    return max(_versions(name, known), default=0)


def _versions(name: str, known: Mapping[str, bytes]) -> list[int]:
    prefix = f"{name}/"
    versions = [check.removeprefix(prefix) for check in known if check.startswith(prefix)]
    if not all(map(_VERSION.fullmatch, versions)):
        raise KeyringError(f"the database is damaged: malformed version of {name}; restore it")
    return sorted(map(int, versions))


def _read(path: Path) -> dict[int, bytes]:
    try:
        lines = read_private(path).splitlines()
    except OSError as error:
        raise KeyringError(explain(error, f"cannot read {path}")) from error
    except UnicodeDecodeError as error:
        raise KeyringError(f"cannot read {path}: it is not a key file") from error
    found = [_LINE.fullmatch(line) for line in lines]
    keys = {int(match[1]): bytes.fromhex(match[2]) for match in found if match}
    if not keys or len(keys) != len(lines):
        raise KeyringError(f"{path} is damaged: each line is a version and 64 hex digits")
    return keys


def _text(keys: Mapping[int, bytes]) -> str:
    return "".join(f"{version} {keys[version].hex()}\n" for version in sorted(keys))


@contextmanager
def _making(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise KeyringError(explain(error, f"cannot make {path}")) from error


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Exclude other writers of the file."""
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KeyringError(f"cannot read {path.parent}: {error.strerror}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
