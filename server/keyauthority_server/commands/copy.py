"""`copy`: the whole store into another, of whatever engine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Final

import click

from keyauthority.clock import SystemClock
from keyauthority_server.audit import verify
from keyauthority_server.commands.options import STORE, load, options
from keyauthority_server.commands.output import say
from keyauthority_server.config import Config, ConfigError, StoreUrl
from keyauthority_server.keyring import Keyring
from keyauthority_server.runtime.bootstrap import AUDIT_KEY, reported, verify_against
from keyauthority_server.store import factory, transfer
from keyauthority_server.store.sql.queries import digests
from keyauthority_server.store.transfer import COUNTERS, CopiedLog, Endpoint

NICE: Final = 10  # servers come first


@click.command("copy")
@click.option("--from", "source_url", metavar="URL", required=True, help="The store that there is.")
@click.option(
    "--to", "target_url", metavar="URL", help="An empty one; to abandon a copy, what was copied."
)
@click.option(
    "--abandon", is_flag=True, help="Open the source of a copy again, if --to is an unfinished one."
)
@options(*STORE)
def copy(
    source_url: str, target_url: str | None, abandon: bool, **flags: str | bool | None
) -> None:
    """Copy the whole store, and close the source for writing for good.

    Servers on the source go on verifying, and refuse all changes, until they are started on the
    target. Killed at any point and started again it goes on; until it is done no server starts on
    the target. The pepper and the audit key stay in the data folder, which must be that of the
    source.
    """
    settings = load(flags)
    source = _url("--from", source_url)
    target = _url("--to", target_url) if target_url else None
    os.nice(NICE)
    with reported():
        if abandon:
            _abandon(source, target)
        elif target is None:
            raise click.UsageError("Missing option '--to'.")
        else:
            _copy(settings, source, target)


def _url(flag: str, text: str) -> StoreUrl:
    try:
        return StoreUrl.parse(text)
    except ValueError as error:
        raise ConfigError(f"{flag} {error}") from None


def _copy(settings: Config, source_url: StoreUrl, target_url: StoreUrl) -> None:
    audit_key = Keyring.load(settings.data / AUDIT_KEY)
    with _place(source_url, source=True) as source:
        head = transfer.head_of(source)
        filled = head.revision and not (head.closed and not head.hash)  # else it is refused below
        versions = digests.versions_in_use(source.rows, SystemClock().now())
        verify_against([audit_key], versions, empty=not filled)
        factory.migrate(target_url)
        with _place(target_url, source=False) as target:
            head = transfer.close_source(source, target, str(target_url))
            say(f"{source_url} is closed for writing at revision {head.revision}")
            transfer.copy_rows(source, target, head)
            compared = transfer.compare(source, target, head)
            verified = asyncio.run(verify(CopiedLog(target), audit_key))
            if verified.findings:
                revision, what = verified.findings[0]
                raise ConfigError(
                    f"the copy stays closed, its log is not as it was written: "
                    f"revision {revision}: {what}; see audit verify"
                )
            counters = transfer.copy_counters(source, target, head)
            transfer.finish(source, target, head)
    rows = {**compared, COUNTERS.name: counters}
    say(" ".join(f"{name}={count}" for name, count in rows.items()))
    say(f"log_id={head.log_id} revision={head.revision}: all rows and the chain are checked")
    say(
        f"start the servers with the URL of --to as their --store, at once: those on the source "
        f"answer as of revision {head.revision}. The pepper and {AUDIT_KEY} are not copied: each "
        f"server's data folder needs those of {settings.data}",
        err=True,
    )


def _abandon(source_url: StoreUrl, target_url: StoreUrl | None) -> None:
    with ExitStack() as places:
        target = None
        if target_url is not None:
            if not factory.is_made(target_url):
                raise ConfigError(f"there is no store at {target_url}, so no copy")
            target = places.enter_context(_place(target_url, source=False))
        source = places.enter_context(_place(source_url, source=True))
        head = transfer.reopen_source(source, target)
    say(f"{source_url} is open again at revision {head.revision}; what was copied is not")


@contextmanager
def _place(url: StoreUrl, *, source: bool) -> Iterator[Endpoint]:
    with closing(factory.open_endpoint(url, source=source)) as place:
        yield place
