"""`copy`: move a whole store into another one, of either engine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import click

from keyauthority.clock import SystemClock
from keyauthority_server.audit import verify
from keyauthority_server.commands.options import NICE, STORE, load, options
from keyauthority_server.commands.output import say
from keyauthority_server.config import Config, ConfigError, StoreUrl
from keyauthority_server.keyring import Keyring
from keyauthority_server.runtime.bootstrap import AUDIT_KEY, reported, verify_against
from keyauthority_server.store import factory, transfer
from keyauthority_server.store.sql.queries import digests
from keyauthority_server.store.sql.tables import COUNTERS
from keyauthority_server.store.transfer import CopiedLog, Endpoint


@click.command("copy")
@click.option("--from", "source_url", metavar="URL", required=True, help="Source store URL.")
@click.option(
    "--to", "target_url", metavar="URL", help="Target store URL: empty, or the unfinished copy."
)
@click.option(
    "--abandon",
    is_flag=True,
    help="Reopen the source for writing, if the copy in --to is unfinished.",
)
@options(*STORE)
def copy(
    source_url: str, target_url: str | None, abandon: bool, **flags: str | bool | None
) -> None:
    """Copy the whole store and close the source for writing.

    Servers on the source still verify keys and reject all changes, until they are restarted on the
    target. An interrupted copy resumes when it is run again; no server starts on the target before
    the copy is complete. --data must be the data folder of the source: the pepper and the audit key
    stay there.
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
    with _endpoint(source_url, source=True) as source:
        head = transfer.head_of(source)
        filled = head.revision and not (head.closed and not head.hash)  # else rejected below
        versions = digests.versions_in_use(source.rows, SystemClock().now())
        verify_against([audit_key], versions, empty=not filled)
        factory.migrate(target_url)
        with _endpoint(target_url, source=False) as target:
            head = transfer.close_source(source, target, str(target_url))
            say(f"{source_url} is closed for writing at revision {head.revision}")
            transfer.copy_rows(source, target, head)
            compared = transfer.compare(source, target, head)
            verified = asyncio.run(verify(CopiedLog(target), audit_key))
            if verified.findings:
                revision, finding = verified.findings[0]
                raise ConfigError(
                    f"the copy stays closed, its log was altered: "
                    f"revision {revision}: {finding}; run audit verify"
                )
            counters = transfer.copy_counters(source, target, head)
            transfer.finish(source, target, head)
    rows = {**compared, COUNTERS.name: counters}
    say(" ".join(f"{name}={count}" for name, count in rows.items()))
    say(f"log_id={head.log_id} revision={head.revision}: all rows and the chain verified")
    say(
        f"restart the servers now with the URL of --to as their --store: those on the source "
        f"answer as of revision {head.revision}. The pepper and {AUDIT_KEY} are not copied: put "
        f"those of {settings.data} into the data folder of each server",
        err=True,
    )


def _abandon(source_url: StoreUrl, target_url: StoreUrl | None) -> None:
    with ExitStack() as endpoints:
        target = None
        if target_url is not None:
            if not factory.is_made(target_url):
                raise ConfigError(f"no copy found: there is no store at {target_url}")
            target = endpoints.enter_context(_endpoint(target_url, source=False))
        source = endpoints.enter_context(_endpoint(source_url, source=True))
        head = transfer.reopen_source(source, target)
    say(f"{source_url} accepts writes again from revision {head.revision}; the copy stays closed")


@contextmanager
def _endpoint(url: StoreUrl, *, source: bool) -> Iterator[Endpoint]:
    with closing(factory.open_endpoint(url, source=source)) as endpoint:
        yield endpoint
