"""Operator keys and TLS files that cannot be used, and the remedy that the command line names."""

from __future__ import annotations

import pytest

from keyauthority.errors import ErrorReason, error
from tests.client.conftest import Command
from tests.client.fake_authority import FakeAuthority
from tests.client.records import OPERATOR_KEY, TOKEN

LIST = ("projects", "list")


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (
            "keyauthority-data/operator.key",
            "it is the path of a file, which belongs in KEYAUTHORITY_OPERATOR_KEY_FILE",
        ),
        (TOKEN, "it is not an operator key, which begins with op_live_ or PREFIX_op_live_"),
        ("**********", "it is not an operator key, which begins with op_live_ or PREFIX_op_live_"),
    ],
)
def test_refused_operator_key_of_another_form_is_explained(
    command: Command,
    authority: FakeAuthority,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    reason: str,
) -> None:
    """A path, a customer's key, and a secret that was printed redacted."""
    monkeypatch.setenv("KEYAUTHORITY_OPERATOR_KEY", key)
    authority.will(error(ErrorReason.CREDENTIAL_INVALID, "x"))

    ended = command(*LIST)

    text = f"KEYAUTHORITY_OPERATOR_KEY: the operator key is not valid: {reason}"
    assert (1, f"keyauthority: {text} (credential_invalid) [UNAUTHENTICATED]\n") == ended[::2]


def test_key_in_the_variable_of_its_file_is_not_shown(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of the other variable is the remedy."""
    monkeypatch.setenv("KEYAUTHORITY_OPERATOR_KEY_FILE", OPERATOR_KEY)

    text = (
        "KEYAUTHORITY_OPERATOR_KEY_FILE: holds a key, not the path of a file: set"
        " KEYAUTHORITY_OPERATOR_KEY"
    )
    assert (2, f"keyauthority projects list: {text}\n") == command(*LIST)[::2]


def test_certificate_without_its_key_names_both_settings(command: Command) -> None:
    """One may come from an option and the other from the environment."""
    text = "give both --tls-cert and KEYAUTHORITY_TLS_CLIENT_KEY"
    ended = command(*LIST, "--tls-cert", "cert.pem")
    assert (2, f"keyauthority projects list: {text}\n") == ended[::2]
