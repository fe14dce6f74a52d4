"""First records of a new authority: an operator key in its own file, and a project."""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Final

import structlog

from keyauthority.model import ChangeType, Key, KeyKind, KeyMode, Project
from keyauthority.permissions import EVERYTHING
from keyauthority.token import make, new_access_key, new_secret, parse
from keyauthority_server.config import ConfigError, refusal
from keyauthority_server.keyring import Keyring
from keyauthority_server.private_files import read_private, write_private
from keyauthority_server.store.clocks import clock_of
from keyauthority_server.store.interface import Store, Transaction
from keyauthority_server.store.types import Actor, Mutation, StoredKey

FIRST_PROJECT: Final = "default"
SETUP: Final = Actor("setup")
"""Creates the first operator key."""

_log = structlog.get_logger("keyauthority_server")


async def make_first_records(
    store: Store, peppers: Keyring, path: Path, token_prefix: str = ""
) -> bool:
    """Create the first operator key and project; the key is in its file first.

    Returns False if another server with the same key files was first.
    """
    token_text, made = _first_operator_token(path, token_prefix)
    token = parse(token_text)
    if token is None or token.kind is not KeyKind.OPERATOR:
        raise ConfigError(f"{path} contains no operator key; remove the file to create one")

    now = (await clock_of(store)).now()

    def work(transaction: Transaction) -> bool:
        if transaction.head:
            return False
        key = Key(
            access_key=token.access_key,
            project_id="",
            mode=KeyMode.LIVE,
            kind=KeyKind.OPERATOR,
            purpose="first operator key",
            permissions=EVERYTHING,
            create_time=now,
            update_time=now,
            created_by=SETUP.actor,
            revision=0,
        )
        digest = peppers.digest(token_text.encode())
        stored = StoredKey(key, digest, peppers.current, lineage=key.access_key)
        project = _first_project(now)
        transaction.apply(Mutation(SETUP, ChangeType.KEY_CREATED, now, (stored,)))
        transaction.apply(Mutation(SETUP, ChangeType.PROJECT_CREATED, now, project=project))
        return True

    written = await store.write(work)
    if made and not written:
        remove_made([path])  # the store lacks its key
        _log.warning("initialised_by_another_server", operator_key="in that server's data folder")
    return written


def _first_project(now: datetime) -> Project:
    return Project(
        project_id=str(uuid.uuid4()),
        display_name=FIRST_PROJECT,
        create_time=now,
        update_time=now,
        revision=0,
    )


def remove_made(paths: Iterable[Path]) -> None:
    """Remove unused key files that this process created."""
    for path in paths:
        path.unlink()


def _first_operator_token(path: Path, token_prefix: str) -> tuple[str, bool]:
    """Return the token in the file, mode 0600, and whether the file was created."""
    try:
        made = not path.exists()
        if made:
            secret_key = make(
                KeyKind.OPERATOR, KeyMode.LIVE, new_access_key(), new_secret(), token_prefix
            )
            write_private(path, secret_key.reveal() + "\n")
        return read_private(path).strip(), made
    except OSError as error:
        raise refusal(error, f"cannot use {path}") from error
    except UnicodeDecodeError:
        return "", False  # reported as no operator key
