"""Secret keys that live in files beside the database: the pepper of digests, the key of the chain.

A file holds one line a version, `<version> <64 hexadecimal digits>`. Nothing here is ever shown or
stored elsewhere: the database holds a check value of each version, which recognises a file and
tells nothing of it. The current version is the highest that the database knows: a version that was
only added to the file is not in use yet, and a lower one that the database knows no more was
dropped.
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
    """A digest is wanted under a version that the keyring does not have."""

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
        """Make a file of mode 0600 with a first version; KeyringError if there is one already."""
        keys = {1: secrets.token_bytes(KEY_BYTES)}
        with _making(path):
            write_private(path, _text(keys))
        return cls(path, keys)

    @classmethod
    def load(cls, path: Path) -> Keyring:
        """Read a file that nobody but its owner may read; KeyringError if that does not hold."""
        return cls(path, _read(path))

    @property
    def versions(self) -> tuple[int, ...]:
        """All versions, in order."""
        return tuple(sorted(self._keys))

    def digest(self, message: bytes, version: int | None = None) -> bytes:
        """Return the HMAC-SHA-256 of a message, under the current version unless one is named.

        Raises UnknownVersion.
        """
        try:
            key = self._keys[version or self.current]
        except KeyError as error:
            raise UnknownVersion(version or self.current) from error
        return hmac.digest(key, message, "sha256")

    def derive(self, purpose: str, version: int | None = None) -> bytes:
        """Return a key for one purpose, from which the others cannot be told."""
        return self.digest(b"keyauthority derive\0" + purpose.encode(), version)

    def check_values(self) -> Mapping[str, bytes]:
        """Return what the database keeps to recognise this file: a value for each version."""
        return {
            f"{self.name}/{version}": hashlib.sha256(self.derive("check value", version)).digest()
            for version in self.versions
        }

    def verify_against(self, known: Mapping[str, bytes]) -> None:
        """Raise KeyringError unless the file has every version that the database knows.

        `known` are the database's check values, those of other files among them.
        """
        own = self.check_values()
        for version in _versions(self.name, known):
            name = f"{self.name}/{version}"
            if not hmac.compare_digest(own.get(name, b""), known[name]):
                raise KeyringError(
                    f"{self.path} is not the one that the database was filled under: put the "
                    f"right one back (version {version})"
                )

    def use(self, known: Mapping[str, bytes]) -> None:
        """Go on with the versions that the database knows, read from the file where it has them.

        What was known before stays while the database knows it, whatever became of the file. One
        that does not fit the check value is left out. Raises KeyringError if a version had to be
        read and the file cannot be; what is held is then as it was.
        """
        wanted = _versions(self.name, known)
        if wanted == list(self.versions) and self._known.issuperset(wanted):
            return
        keys = {version: self._keys[version] for version in wanted if version in self._keys}
        if len(keys) < len(wanted):
            read = Keyring(self.path, _read(self.path))
            fitting = read.check_values()
            for version in wanted:
                name = f"{self.name}/{version}"
                if hmac.compare_digest(fitting.get(name, b""), known[name]):
                    keys[version] = read._keys[version]
        if keys:
            self._hold(keys, max(wanted), frozenset(wanted))

    def dropped(self, version: int) -> bool:
        """True for a version that the database knew once: it is below the newest that it knows."""
        return version < self.newest and version not in self._known

    def _hold(
        self,
        keys: Mapping[int, bytes],
        newest: int | None = None,
        known: frozenset[int] = frozenset(),
    ) -> None:
        self._keys = dict(keys)
        self.current = max(keys)
        """The version that is used unless one is named."""
        self.newest = newest or self.current
        """The newest version that the database knows, whether it is held or not."""
        self._known = known or frozenset(keys)


def add_version(path: Path, known: Mapping[str, bytes]) -> int:
    """Add a version to a file, durably, unless one is waiting to be used; return its number.

    `known` are the database's check values. Killed at any point, the file is as before or has it.
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
    """Remove a version from a file, durably; False if it has none such.

    Raises KeyringError if it is the only one.
    """
    with _alone(path):
        keys = _read(path)
        if version not in keys:
            return False
        del keys[version]
        if not keys:
            raise KeyringError(f"{path} would be empty")
        with _making(path):
            write_private(path, _text(keys), replace=True)
        return True


def check_known(name: str, known: Mapping[str, bytes], used: Collection[int]) -> None:
    """Raise KeyringError unless the database knows each version that it was filled under.

    One that knows none would take any file for the right one.
    """
    versions = set(_versions(name, known))
    missing = sorted(set(used) - versions)
    if missing or not versions:
        raise KeyringError(
            f"the database is damaged: it lacks the check value of {name}/"
            f"{missing[0] if missing else 1}, under which it was filled; restore it"
        )


def newest_version(name: str, known: Mapping[str, bytes]) -> int:
    """Return the newest version of a file that the check values name; 0 if they name none."""
    return max(_versions(name, known), default=0)


def _versions(name: str, known: Mapping[str, bytes]) -> list[int]:
    named = (one.rpartition("/") for one in known)
    versions = [version for file, _, version in named if file == name]
    if not all(map(_VERSION.fullmatch, versions)):
        raise KeyringError(f"the database is damaged: it names versions of {name} that are none")
    return sorted(map(int, versions))


def _read(path: Path) -> dict[int, bytes]:
    try:
        lines = read_private(path).splitlines()
    except OSError as error:
        raise KeyringError(explain(error, f"cannot read {path}")) from error
    except UnicodeDecodeError as error:
        raise KeyringError(f"cannot read {path}: it is no key file") from error
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
    """Keep out whoever else would write the file meanwhile."""
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise KeyringError(f"cannot read {path.parent}: {error.strerror}") from error
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)
