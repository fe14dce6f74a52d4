"""`init` and `migrate`: prepare a data folder and its store for a server."""

from __future__ import annotations

import asyncio

import click

from keyauthority_server.commands.options import ISSUE, STORE, load, options
from keyauthority_server.commands.output import say
from keyauthority_server.commands.serving import welcome
from keyauthority_server.runtime import bootstrap
from keyauthority_server.runtime.supervisor import hold_folder
from keyauthority_server.store import factory


@click.command()
@options(*STORE, *ISSUE)
def init(**flags: str | bool | None) -> None:
    """Initialise the data folder and the store.

    Makes the secret keys of the server, the first operator key and the first project.
    """
    settings = load(flags)
    with hold_folder(settings.data):
        if asyncio.run(bootstrap.prepare(settings)):
            welcome(settings)
    say(f"{settings.data} is ready")


@click.command()
@options(*STORE)
def migrate(**flags: str | bool | None) -> None:
    """Upgrade the store to the schema of this version."""
    settings = load(flags)
    with hold_folder(settings.data), bootstrap.reported():
        factory.migrate(settings.store)
    say(f"{settings.store} is up to date")
