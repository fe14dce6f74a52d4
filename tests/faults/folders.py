"""Data folders, the authority on them in this process, and the effects of commands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from keyauthority import convert
from keyauthority.clock import SystemClock
from keyauthority.model import KeyKind, KeyMode, RevokeReason
from keyauthority.requests import NewKey, Revocation, VerifyQuery
from keyauthority.results import CreatedKey
from keyauthority.token import SecretKey, parse
from keyauthority_server import config
from keyauthority_server.config import Config
from keyauthority_server.runtime.bootstrap import AdminSession, open_admin, open_authority
from keyauthority_server.services import Authority, Credential, Principal, pepper_rotation
from tests.service.imports import import_set, item

T = TypeVar("T")


def settings(data: Path, store: Path | None = None) -> Config:
    """The configuration of a server on a folder, with its database there or elsewhere."""
    flags = {"data": str(data)}
    if store is not None:
        flags["store"] = f"sqlite://{store}"
    return config.load(flags, {})


class Process:
    """One process of the authority, called by its first operator."""

    def __init__(self, authority: Authority, data: Path) -> None:
        self.authority = authority
        text = (data / "operator.key").read_text().strip()
        token = parse(text)
        assert token
        self.credential = Credential(token, text, "127.0.0.1")

    async def caller(self, right: str) -> Principal:
        """The operator, admitted."""
        return await self.authority.with_current_peppers(
            self.authority.authenticate, self.credential, (right,)
        )

    async def create(self, project_id: str, request_id: str = "") -> CreatedKey:
        """Make a key, as a call does."""
        new = NewKey(
            project_id=project_id,
            mode=KeyMode.LIVE,
            kind=KeyKind.SECRET,
            request_id=request_id,
        )
        caller = await self.caller("keys:create")
        return await self.authority.with_current_peppers(
            self.authority.keys.create, caller, new, b"content"
        )

    async def verdict(self, secret_key: SecretKey) -> str:
        """Verify a token, as a call does."""
        shown = VerifyQuery(secret_key=secret_key.reveal())
        judged = await self.authority.with_current_peppers(
            self.authority.verification.verify, self.credential, shown
        )
        return judged.code.value

    async def import_keys(self, *tokens: str) -> list[str]:
        """Import a key for each token of another system; return their access keys."""
        caller, project_id = await self.caller("keys:import"), await self.project()
        done = await self.authority.key_import.run(
            caller,
            convert.import_set_from_proto(import_set("old-system")),
            [convert.imported_key_from_proto(item(token, project_id)) for token in tokens],
            validate_only=False,
        )
        return [result.access_key for result in done.results]

    async def head(self) -> int:
        """The newest revision."""
        nothing = VerifyQuery(secret_key="")
        judged = await self.authority.verification.verify(self.credential, nothing)
        return judged.revision

    async def own_verdict(self) -> str:
        """Call with the operator's own key, which upgrades the digest of that key."""
        await self.head()
        return "valid"

    async def revoke(self, access_key: str) -> None:
        """Revoke a key."""
        wanted = Revocation(reason=RevokeReason.OTHER)
        await self.authority.keys.revoke(await self.caller("keys:revoke"), access_key, wanted)

    async def project(self) -> str:
        """The id of the first project."""
        page = await self.authority.projects.list(await self.caller("projects:read"), b"", 1, "")
        return page.items[0].project_id


@asynccontextmanager
async def process(data: Path, store: Path | None = None) -> AsyncIterator[Process]:
    """Open the authority as a worker does."""
    async with open_authority(settings(data, store), checkpoints=store is None) as authority:
        yield Process(authority, data)


async def on_machine(data: Path, work: Callable[[AdminSession], Awaitable[T]]) -> T:
    """Run a command's operation while other processes have the folder open."""
    async with open_admin(settings(data)) as machine:
        return await work(machine)


async def rotate(data: Path, *, prepare: bool = False) -> int:
    """Rotate the pepper as `pepper rotate` does."""

    async def work(machine: AdminSession) -> int:
        return await pepper_rotation.rotate(
            machine.store, machine.peppers, machine.key_checks, prepare=prepare
        )

    return await on_machine(data, work)


async def drop(data: Path, version: int, later: timedelta = timedelta()) -> bool:
    """Drop a version as `pepper drop` does, now or later."""

    async def work(machine: AdminSession) -> bool:
        now = SystemClock().now() + later
        return await pepper_rotation.drop(machine.store, machine.peppers, version, now)

    return await on_machine(data, work)


async def states(data: Path) -> dict[int, tuple[str, int]]:
    """The output of `pepper status`: each version's state, and the keys that need it."""

    async def work(machine: AdminSession) -> dict[int, tuple[str, int]]:
        versions = await pepper_rotation.status(
            machine.store, machine.peppers, machine.key_checks, SystemClock().now()
        )
        return {one.number: (one.state, one.digests.needing) for one in versions}

    return await on_machine(data, work)


async def until_made_anew(data: Path, use: Callable[[], Awaitable[str]], version: int) -> None:
    """Use a key again and again, as its owner does, until no key needs a version."""
    for _ in range(200):
        assert "valid" == await use()
        if (await states(data))[version][1] == 0:
            return
        await asyncio.sleep(0.05)
    raise AssertionError("digests were not made anew")
