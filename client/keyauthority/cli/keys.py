"""`keyauthority keys create|show|list|revoke`; see `changes` for the other commands."""

from __future__ import annotations

from typing import Any, Final

import click

from keyauthority.cli import changes, options, parameters
from keyauthority.cli.formats import Paging, keeps_secret, paged, print_listing, print_result
from keyauthority.cli.key_import import import_
from keyauthority.cli.output import print_secret, record_fields, row_of, time_text, word
from keyauthority.cli.session import confirm, connected, option, read_secret, settings
from keyauthority.convert import (
    created_key_to_proto,
    key_lookup_to_proto,
    key_page_to_proto,
    key_to_proto,
    revoked_key_to_proto,
)
from keyauthority.model import (
    KeyKind,
    KeyMode,
    KeyState,
    Restrictions,
    RevokeReason,
)
from keyauthority.results import RevokedKey
from keyauthority.v1 import key_authority_service_pb2 as service_pb2


@click.group()
@settings
def keys() -> None:
    """Create, show, update, rotate and revoke keys."""


for _command in (changes.update, changes.rotate, changes.disable, changes.enable, import_):
    keys.add_command(_command)


@keys.command()
@click.option("--project-id", default="", help="Owning project; omit for an operator key.")
@click.option(
    "--mode", type=parameters.choice(KeyMode), help="Key mode; optional for an operator key."
)
@click.option("--kind", type=parameters.choice(KeyKind), required=True, help="Key kind.")
@options.key_fields
@click.option(
    "--ttl",
    type=parameters.duration,
    metavar="DURATION",
    help="Lifetime (default: unlimited), e.g. 90d, 12h, 30m or 10s.",
)
@click.option(
    "--operator-project",
    "operator_projects",
    multiple=True,
    metavar="PROJECT_ID",
    help="Project an operator key is confined to (default: all).",
)
@options.request_id
@settings
def create(
    project_id: str,
    kind: str,
    purpose: str | None,
    labels: tuple[tuple[str, str], ...],
    **fields: Any,
) -> None:
    """Create a key and show its secret once.

    Options for lists may be repeated.
    """
    if fields["expire_time"] is not None and fields["ttl"] is not None:
        raise click.UsageError("give --expire-time or --ttl, not both")
    if project_id and kind == KeyKind.OPERATOR:
        raise click.UsageError("an operator key has no project: confine it by --operator-project")
    keeps_secret()
    restrictions = Restrictions(**{name: fields.pop(name) for name in options.RESTRICTIONS})
    with connected() as authority:
        created = authority.create_key(
            project_id,
            kind=kind,
            purpose=purpose or "",
            restrictions=restrictions,
            labels=parameters.label_map(labels),
            **fields,
        )
    key = created.key
    if print_result(created_key_to_proto(created), record_fields(key), key.access_key):
        print_secret(key, created.secret_key, quiet=bool(option("quiet")))


@keys.command()
@options.record_id("access_key", "Access key of the key.")
@settings
def show(access_key: str) -> None:
    """Show one key, without its secret."""
    with connected() as authority:
        key = authority.get_key(access_key)
    message = service_pb2.GetKeyResponse(key=key_to_proto(key))
    print_result(message, record_fields(key), key.access_key)


@keys.command()
@settings
def lookup() -> None:
    """Show the key of a token, in any state.

    The token is read from standard input or a prompt.
    """
    secret_key = read_secret()
    with connected() as authority:
        found = authority.lookup_key(secret_key)
    fields = record_fields(found.key)
    if found.project is not None:
        fields += [(f"project.{name}", text) for name, text in record_fields(found.project)]
    print_result(key_lookup_to_proto(found), fields, found.key.access_key)


@keys.command("list")
@click.option("--project-id", default="", help="Project ID (default: all visible projects).")
@click.option("--mode", type=parameters.choice(KeyMode), help="Key mode.")
@click.option("--kind", type=parameters.choice(KeyKind), help="Key kind.")
@click.option("--state", type=parameters.choice(KeyState), help="Lifecycle state.")
@click.option(
    "--label",
    "labels",
    multiple=True,
    type=parameters.pair,
    metavar="NAME=VALUE",
    help="Required label; may be repeated.",
)
@click.option(
    "--expires-before",
    type=parameters.time_ahead,
    metavar="TIME|SPAN",
    help="Latest expiry, exclusive.",
)
@click.option(
    "--used-before", type=parameters.time_ago, metavar="TIME|SPAN", help="Latest use, exclusive."
)
@click.option("--never-used", is_flag=True, help="Only keys that were never used.")
@click.option("--import-set", default="", metavar="NAME", help="Import set; * for any.")
@paged
@settings
def list_(
    project_id: str, labels: tuple[tuple[str, str], ...], paging: Paging, **filters: Any
) -> None:
    """List the keys that match all given options, oldest first.

    Operator keys are listed with --kind operator and without --project-id.
    """
    with connected() as authority:
        page = paging.fetch(
            *(authority.list_keys, project_id), labels=parameters.label_map(labels), **filters
        )
    rows = [row_of(key, _COLUMNS) for key in page.items]
    print_listing(key_page_to_proto(page), "keys", _COLUMNS, rows)


_COLUMNS: Final = (
    *("access_key", "state", "mode", "kind", "purpose", "expire_time", "last_used_time"),
)


@keys.command()
@options.record_id("access_key", "Access key of the key to revoke.", required=False)
@click.option(
    "--by-secret", is_flag=True, help="Read the secret key; it authorizes its own revocation."
)
@click.option(
    "--reason",
    type=parameters.choice(RevokeReason),
    metavar="REASON",
    help=f"Reason of the revocation: {', '.join(RevokeReason)}.",
)
@click.option("--note", default="", help="Note stored with the key, at most 200 characters.")
@options.yes
@settings
def revoke(
    access_key: str | None, by_secret: bool, reason: str | None, note: str, yes: bool
) -> None:
    """Revoke one key permanently."""
    if not access_key and not by_secret:
        raise click.UsageError("name the key: ACCESS_KEY, --by-secret, or both")
    secret_key = read_secret() if by_secret else None
    confirm(f"Revoke {access_key or 'the key of this secret'} for good?", yes=yes)
    with connected(by_secret=by_secret) as authority:
        revoked = authority.revoke_key(access_key, secret_key=secret_key, reason=reason, note=note)
    print_result(revoked_key_to_proto(revoked), _revoked_fields(revoked), revoked.access_key)


def _revoked_fields(revoked: RevokedKey) -> list[tuple[str, str]]:
    if revoked.key is not None:
        return record_fields(revoked.key)
    return [
        ("access_key", revoked.access_key),
        ("project_id", revoked.project_id),
        ("state", word(revoked.state)),
        ("revoke_time", time_text(revoked.revoke_time)),
        ("revision", str(revoked.key_revision)),
    ]
