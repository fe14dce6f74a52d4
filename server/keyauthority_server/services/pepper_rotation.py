"""Pepper rotation: adds, activates and drops versions, in the pepper file and in the database.

A version is added to the file before the database names it, and removed from the file after the
database has dropped it. So the file has every version that the database names, at whichever step a
rotation was killed; running the same command again continues from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from keyauthority_server.keyring import Keyring, add_version, newest_version, remove_version
from keyauthority_server.store.interface import Store, Transaction
from keyauthority_server.store.sql.queries.digests import (
    keys_needing,
    pepper_usage,
    sealed_until,
)
from keyauthority_server.store.types import PepperUsage

LISTED_MAX: Final = 10  # access keys named in one error


class DropRefused(Exception):
    """A pepper version is still needed; the message is one line for an operator."""


class Version(NamedTuple):
    """One pepper version, its state and its usage."""

    number: int
    state: str
    """`current`; `old`; `waiting`: in the file only; `dropped`: not removed from the file; `gone`.
    """
    digests: PepperUsage


async def activate(store: Store, peppers: Keyring, version: int) -> None:
    """Make a version of the pepper file the current one, at once, in all processes.

    Raises KeyringError if the database has another pepper under this version number.
    """
    ring = Keyring.load(peppers.path)
    name = f"{ring.name}/{version}"
    check = {name: ring.check_values()[name]}

    def work(transaction: Transaction) -> None:
        transaction.set_key_checks(check)
        ring.verify_against(transaction.key_checks())

    await store.write(work)


async def rotate(
    store: Store, peppers: Keyring, known: Mapping[str, bytes], *, prepare: bool
) -> int:
    """Add a version, unless one is waiting, and activate it; return its number.

    With `prepare`, only add it to the file, where it waits for activation.
    """
    version = add_version(peppers.path, known)
    if not prepare:
        await activate(store, peppers, version)
    return version


async def drop(store: Store, peppers: Keyring, version: int, now: datetime) -> bool:
    """Drop a version permanently; False if the database had dropped it before.

    Raises DropRefused while the version is needed, and if it does not exist.
    """
    name = f"{peppers.name}/{version}"

    def work(transaction: Transaction) -> tuple[bool, Sequence[str]]:
        known = transaction.key_checks()
        newest = newest_version(peppers.name, known)
        if version == newest:
            raise DropRefused(f"version {version} is the current one: rotate first")
        if version > newest:
            raise DropRefused(f"version {version} is not active yet: the current one is {newest}")
        if name not in known:
            return False, ()
        needing = transaction.query(keys_needing, version, now, LISTED_MAX)
        if needing:
            return False, needing
        end = transaction.query(sealed_until, version, now)
        if end is not None:
            raise DropRefused(
                f"answers to requests are sealed under version {version} until {_time(end)}"
            )
        transaction.drop_key_check(name)
        return True, ()

    dropped, needing = await store.write(work)
    if needing:
        counts = {
            usage.pepper_version: usage.needing for usage in await store.query(pepper_usage, now)
        }
        count = max(counts.get(version, 0), len(needing))
        raise DropRefused(
            f"keys need version {version} until they are verified once, revoked or superseded, "
            f"{count} of them: {', '.join(needing)}{' and more' if count > len(needing) else ''}"
        )
    if not remove_version(peppers.path, version) and not dropped:
        raise DropRefused(f"there is no version {version}")
    return dropped


async def status(
    store: Store, peppers: Keyring, known: Mapping[str, bytes], now: datetime
) -> Sequence[Version]:
    """Return all versions in the file, the database or in use by digests, in order."""
    newest = newest_version(peppers.name, known)
    in_file = Keyring.load(peppers.path).versions
    usages = {usage.pepper_version: usage for usage in await store.query(pepper_usage, now)}
    states = dict.fromkeys(usages, "gone") | dict.fromkeys(in_file, "dropped")
    for number in states:
        if number > newest:
            states[number] = "waiting"
        elif number == newest:
            states[number] = "current"
        elif f"{peppers.name}/{number}" in known:
            states[number] = "old"
    return [
        Version(number, states[number], usages.get(number, PepperUsage(number, 0, 0, 0, None)))
        for number in sorted(states)
    ]


def droppable(version: Version) -> str:
    """Return `yes`, or the reason why a version cannot be dropped."""
    if version.state in ("current", "waiting"):
        return f"no: it is {version.state}"
    if version.state == "gone":
        return "it is"
    if version.digests.needing:
        return "no: keys need it"
    if version.digests.sealed_until is not None:
        return f"no: answers are sealed under it until {_time(version.digests.sealed_until)}"
    return "yes"


def _time(time: datetime) -> str:
    return time.isoformat(timespec="seconds")
