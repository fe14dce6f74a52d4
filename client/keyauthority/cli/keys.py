"""`keyauthority keys create|show|list|revoke`; see `changes` for the other commands."""

from __future__ import annotations

from datetime import datetime, timedelta

import click

from keyauthority.cli import changes, options, parameters
from keyauthority.cli.key_import import import_
from keyauthority.cli.output import (
    key_fields,
    print_fields,
    print_json,
    print_rows,
    print_secret,
    project_fields,
    time_text,
    word,
)
from keyauthority.cli.session import PAGE_SIZE, connected, read_secret, settings, wants_json
from keyauthority.convert import (
    created_key_to_proto,
    key_lookup_to_proto,
    key_page_to_proto,
    key_to_proto,
    revoked_key_to_proto,
)
from keyauthority.model import (
    AndroidApp,
    ApiTargetRestriction,
    KeyKind,
    KeyMode,
    KeyState,
    Quota,
    RateLimit,
    Restrictions,
    RevokeReason,
)
from keyauthority.results import CreatedKey, Page, RevokedKey
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
    mode: str | None,
    kind: str,
    purpose: str | None,
    permissions: tuple[str, ...],
    allowed_ips: tuple[str, ...],
    allowed_referrers: tuple[str, ...],
    android_apps: tuple[AndroidApp, ...],
    ios_bundle_ids: tuple[str, ...],
    api_targets: tuple[ApiTargetRestriction, ...],
    expire_time: datetime | None,
    ttl: timedelta | None,
    rate_limit: RateLimit | None,
    quota: Quota | None,
    labels: tuple[tuple[str, str], ...],
    operator_projects: tuple[str, ...],
    request_id: str,
) -> None:
    """Create a key and show its secret once.

    Options for lists may be repeated.
    """
    if expire_time is not None and ttl is not None:
        raise click.UsageError("give --expire-time or --ttl, not both")
    restrictions = Restrictions(
        allowed_ips=allowed_ips,
        allowed_referrers=allowed_referrers,
        android_apps=android_apps,
        ios_bundle_ids=ios_bundle_ids,
        api_targets=api_targets,
    )
    with connected() as authority:
        created = authority.create_key(
            project_id,
            mode=mode,
            kind=kind,
            purpose=purpose or "",
            permissions=permissions,
            restrictions=restrictions,
            expire_time=expire_time,
            ttl=ttl,
            rate_limit=rate_limit,
            quota=quota,
            labels=parameters.label_map(labels),
            operator_projects=operator_projects,
            request_id=request_id,
        )
    _show_created(created)


def _show_created(created: CreatedKey) -> None:
    if wants_json():
        print_json(created_key_to_proto(created))
    else:
        print_fields(key_fields(created.key))
        print_secret(created.key, created.secret_key)


@keys.command()
@click.option("--access-key", required=True, help="Access key of the key.")
@settings
def show(access_key: str) -> None:
    """Show one key, without its secret."""
    with connected() as authority:
        key = authority.get_key(access_key)
    if wants_json():
        print_json(service_pb2.GetKeyResponse(key=key_to_proto(key)))
    else:
        print_fields(key_fields(key))


@keys.command()
@settings
def lookup() -> None:
    """Show the key of a token from standard input or a prompt, in any state."""
    secret_key = read_secret()
    with connected() as authority:
        found = authority.lookup_key(secret_key)
    if wants_json():
        print_json(key_lookup_to_proto(found))
        return
    print_fields(key_fields(found.key))
    if found.project is not None:
        print_fields((f"project.{name}", text) for name, text in project_fields(found.project))


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
    "--expires-before", type=parameters.time, metavar="TIME", help="Latest expiry, exclusive."
)
@click.option("--used-before", type=parameters.time, metavar="TIME", help="Latest use, exclusive.")
@click.option("--never-used", is_flag=True, help="Only keys that were never used.")
@click.option("--import-set", default="", metavar="NAME", help="Import set; * for any.")
@settings
def list_(
    project_id: str,
    mode: str | None,
    kind: str | None,
    state: str | None,
    labels: tuple[tuple[str, str], ...],
    expires_before: datetime | None,
    used_before: datetime | None,
    never_used: bool,
    import_set: str,
) -> None:
    """List the keys that match all given options, oldest first.

    Operator keys are listed with --kind operator and without --project-id.
    """
    with connected() as authority:
        listed = tuple(
            authority.list_keys(
                project_id,
                mode=mode,
                kind=kind,
                state=state,
                labels=parameters.label_map(labels),
                expires_before=expires_before,
                used_before=used_before,
                never_used=never_used,
                import_set=import_set,
                page_size=PAGE_SIZE,
            )
        )
    if wants_json():
        print_json(key_page_to_proto(Page(listed)))
    else:
        print_rows(
            ("access_key", "state", "mode", "kind", "purpose", "expire_time", "last_used_time"),
            (
                (
                    key.access_key,
                    word(key.state),
                    key.mode,
                    key.kind,
                    key.purpose,
                    time_text(key.expire_time),
                    time_text(key.last_used_time),
                )
                for key in listed
            ),
        )


@keys.command()
@click.option("--access-key", help="Access key of the key to revoke.")
@click.option(
    "--by-secret", is_flag=True, help="Read the secret key; it authorizes its own revocation."
)
@click.option("--reason", type=parameters.choice(RevokeReason), help="Reason of the revocation.")
@click.option("--note", default="", help="Note stored with the key, at most 200 characters.")
@settings
def revoke(access_key: str | None, by_secret: bool, reason: str | None, note: str) -> None:
    """Revoke one key permanently."""
    if not access_key and not by_secret:
        raise click.UsageError("name the key: --access-key, --by-secret, or both")
    secret_key = read_secret() if by_secret else None
    with connected(by_secret=by_secret) as authority:
        revoked = authority.revoke_key(access_key, secret_key=secret_key, reason=reason, note=note)
    if wants_json():
        print_json(revoked_key_to_proto(revoked))
    else:
        print_fields(_revoked_fields(revoked))


def _revoked_fields(revoked: RevokedKey) -> list[tuple[str, str]]:
    if revoked.key is not None:
        return key_fields(revoked.key)
    return [
        ("access_key", revoked.access_key),
        ("project_id", revoked.project_id),
        ("state", word(revoked.state)),
        ("revoke_time", time_text(revoked.revoke_time)),
        ("revision", str(revoked.key_revision)),
    ]
