"""`keyauthority verify` and `keyauthority project-id`."""

from __future__ import annotations

from typing import Any

import click

from keyauthority.cli import parameters
from keyauthority.cli.failures import REFUSED
from keyauthority.cli.formats import print_result
from keyauthority.cli.output import record_fields, show, verdict_fields
from keyauthority.cli.session import connected, option, read_secret, settings, wants_json
from keyauthority.convert import verdict_to_proto
from keyauthority.model import ApiTarget, App, KeyMode, Verdict
from keyauthority.v1 import key_authority_service_pb2 as service_pb2


@click.command()
@click.option("--access-key", default="", help="Access key that the token must match.")
@click.option("--project-id", default="", help="Project that the key must belong to.")
@click.option("--mode", type=parameters.choice(KeyMode), help="Mode that the key must have.")
@click.option(
    "--permission",
    "permissions",
    multiple=True,
    metavar="RESOURCE:ACTION",
    help="Needed permission; may be repeated.",
)
@click.option("--client-ip", default="", metavar="ADDRESS", help="Address of the client.")
@click.option("--referrer", default="", metavar="URL", help="Page the client came from.")
@click.option(
    "--android-app", type=parameters.pair, metavar="PACKAGE=SHA1", help="Android app of the client."
)
@click.option("--ios-bundle-id", default="", metavar="ID", help="iOS bundle of the client.")
@click.option(
    "--api-target", default="", metavar="SERVICE[=METHOD]", help="API service and method called."
)
@click.option(
    "--cost",
    type=click.IntRange(min=0),
    default=1,
    help="Units to spend from limits (default: 1); 0 reads them only.",
)
@click.option(
    "--at-least-revision",
    type=click.IntRange(min=0),
    default=0,
    help="Oldest acceptable revision (default: any).",
)
@click.option("--log-id", default="", help="Log of --at-least-revision.")
@click.option("--explain", is_flag=True, help="List every failed check.")
@click.option("--include-record", is_flag=True, help="Show key and project; needs keys:read.")
@settings
@click.pass_context
def verify(
    context: click.Context,
    /,
    android_app: tuple[str, str] | None,
    ios_bundle_id: str,
    api_target: str,
    **query: Any,
) -> None:
    """Verify a token from standard input or a prompt.

    Exit codes: 0 valid, 1 denied, 3 validity unknown.
    """
    secret_key = read_secret()
    with connected(verifying=True) as authority:
        verdict = authority.verify(
            secret_key,
            app=_app(android_app, ios_bundle_id),
            api_target=_api_target(api_target),
            **query,
        )
    print_result(verdict_to_proto(verdict), _fields(verdict), verdict.access_key)
    context.exit(0 if verdict.valid else REFUSED)


def _fields(verdict: Verdict) -> list[tuple[str, str]]:
    fields = verdict_fields(verdict)
    if verdict.key is not None:
        fields += [(f"key.{name}", text) for name, text in record_fields(verdict.key)]
    if verdict.project is not None:
        fields += [(f"project.{name}", text) for name, text in record_fields(verdict.project)]
    return fields


def _app(android_app: tuple[str, str] | None, ios_bundle_id: str) -> App | None:
    if android_app is None and not ios_bundle_id:
        return None
    package, sha1 = android_app or ("", "")
    return App(android_package=package, android_sha1=sha1, ios_bundle_id=ios_bundle_id)


def _api_target(text: str) -> ApiTarget | None:
    service, _, method = text.partition("=")
    return ApiTarget(service, method) if text else None


@click.command("project-id")
@click.option("--access-key", help="Access key that the token must match.")
@settings
def project_id(access_key: str | None) -> None:
    """Print the project ID of a token.

    The token is read from standard input or a prompt.
    """
    secret_key = read_secret()
    with connected(by_secret=True) as authority:
        owner = authority.get_project_id(access_key, secret_key)
    message = service_pb2.GetProjectIdResponse(project_id=owner)
    if wants_json() or option("field"):
        print_result(message, (), owner)
    else:
        show(owner)
