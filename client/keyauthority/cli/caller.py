"""`keyauthority whoami`: the identity and rights of the caller."""

from __future__ import annotations

import click

from keyauthority.cli.output import print_fields, print_json, time_text
from keyauthority.cli.session import connected, settings, wants_json
from keyauthority.convert import caller_identity_to_proto


@click.command()
@settings
def whoami() -> None:
    """Show the identity and rights of the operator key or client certificate."""
    with connected() as authority:
        caller = authority.get_caller()
    if wants_json():
        print_json(caller_identity_to_proto(caller))
        return
    print_fields(
        [
            ("access_key", caller.access_key),
            ("certificate_name", caller.certificate_name),
            ("permissions", " ".join(caller.permissions)),
            ("operator_projects", " ".join(caller.operator_projects)),
            ("allowed_ips", " ".join(caller.allowed_ips)),
            ("expire_time", time_text(caller.expire_time)),
        ]
    )
