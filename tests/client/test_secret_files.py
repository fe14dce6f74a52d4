"""The warning about secret files that other users of the machine can read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

import click
import pytest

import keyauthority
from keyauthority import _channel
from keyauthority._address import parse
from keyauthority.cli.session import operator_key
from keyauthority.console.serving import _certificate_names
from keyauthority.notify.signing import SecretFile
from tests.client.records import OPERATOR_KEY
from tests.service.certificates import Issuer

_PAIR: Final = Issuer().issue()

Read = Callable[[Path, pytest.MonkeyPatch], object]


def _client(path: Path, _: pytest.MonkeyPatch) -> object:
    path.write_bytes(_PAIR.key)
    tls = keyauthority.Tls(cert=_PAIR.cert, key=path)
    return _channel.credentials(parse("x:1"), tls, allow_plaintext=False)


def _console(path: Path, _: pytest.MonkeyPatch) -> object:
    path.write_bytes(_PAIR.cert + _PAIR.key)
    return _certificate_names(str(path), str(path))


def _notify(path: Path, _: pytest.MonkeyPatch) -> object:
    path.write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    return SecretFile(path).latest()


def _operator(path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    path.write_text(OPERATOR_KEY)
    monkeypatch.setenv("KEYAUTHORITY_OPERATOR_KEY_FILE", str(path))
    with click.Context(click.Command("x")):
        return operator_key({})


@pytest.mark.parametrize("read", [_client, _console, _notify, _operator])
@pytest.mark.parametrize(("mode", "warned"), [(0o644, True), (0o604, True), (0o640, False)])
def test_secret_file_that_others_can_read_is_named_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    read: Read,
    mode: int,
    warned: bool,
) -> None:
    """Each program that reads a secret has the same rule; a group may read."""
    path = tmp_path / "secret"
    path.touch()
    path.chmod(mode)
    for _ in range(2):
        read(path, monkeypatch)
    expected = [f"{path} can be read by other users: chmod o-rwx {path}"] if warned else []
    assert expected == caplog.messages
