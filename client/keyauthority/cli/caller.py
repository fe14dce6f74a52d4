"""`keyauthority whoami`: the identity and rights of the caller."""

from __future__ import annotations

import click

from keyauthority.cli.formats import print_result
from keyauthority.cli.output import time_text
from keyauthority.cli.session import connected, settings
from keyauthority.convert import caller_identity_to_proto


@click.command()
@settings
def whoami() -> None:
    """Show the identity and rights of the caller.

    The caller is an operator key or a client certificate.
    """
    with connected() as authority:
        caller = authority.get_caller()
    print_result(
        caller_identity_to_proto(caller),
        [
            ("access_key", caller.access_key),
            ("certificate_name", caller.certificate_name),
            ("permissions", " ".join(caller.permissions)),
            ("operator_projects", " ".join(caller.operator_projects)),
            ("allowed_ips", " ".join(caller.allowed_ips)),
            ("expire_time", time_text(caller.expire_time)),
        ],
        caller.access_key or caller.certificate_name,
    )
