"""TLS settings of the client, and plaintext that it refuses to use."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

import keyauthority
from keyauthority import _channel
from keyauthority._address import parse
from keyauthority.cli import session
from tests.client.conftest import Call, Command
from tests.service.certificates import Issuer

LOCAL = (
    "127.0.0.1:50051",
    "localhost:50051",
    "LOCALHOST:50051",
    "[::1]:50051",
    "[::ffff:127.0.0.1]:1",
    "unix:/run/keyauthority.sock",
    "unix-abstract:keyauthority",
    "dns:///localhost:50051",
    "ipv4:127.0.0.1:1,127.0.0.2:1",
    "ipv6:[::1]:50051",
)
REMOTE = (
    "keyauthority:50051",
    "10.0.0.7:50051",
    "0.0.0.0:50051",
    "[2001:db8::1]:50051",
    "dns:///keyauthority:50051",
    "ipv4:127.0.0.1:1,10.0.0.7:1",
    "localhost.example.org:50051",
    "ipv6:[2001:db8::1]:50051",
    "127.1:50051",
    "127.0.0.1.example.org:50051",
    "vsock:1:50051",
)

_PAIR: Final = Issuer().issue()


@pytest.mark.parametrize("address", LOCAL)
def test_plaintext_on_loopback_is_allowed(address: str) -> None:
    """Loopback addresses and unix sockets need no TLS."""
    assert _channel.credentials(parse(address), False, allow_plaintext=False) is None


@pytest.mark.parametrize("address", REMOTE)
def test_plaintext_to_another_machine_needs_permission(address: str) -> None:
    """No key crosses a network in plaintext by default."""
    with pytest.raises(keyauthority.InvalidArgument, match="plaintext"):
        _channel.credentials(parse(address), False, allow_plaintext=False)
    assert _channel.credentials(parse(address), False, allow_plaintext=True) is None


def test_both_clients_refuse_plaintext_to_another_machine(call: Call) -> None:
    """They share the rule."""
    with pytest.raises(keyauthority.InvalidArgument, match="plaintext"):
        call("get_project_id", None, "x", client={"address": "192.0.2.1:1"})


def test_tls_accepts_paths_and_bytes_and_prints_no_key(tmp_path: Path) -> None:
    """Files are read when a client is made."""
    pair = Issuer().issue()
    cert, key = pair.write(tmp_path, "client")
    paths = keyauthority.Tls(ca=str(cert), cert=cert, key=key)
    content = keyauthority.Tls(ca=pair.cert, cert=pair.cert, key=pair.key)
    made = _channel.credentials(parse("x:1"), paths, allow_plaintext=False)
    assert (pair.cert, pair.key, pair.cert) == made
    assert made == _channel.credentials(parse("x:1"), content, allow_plaintext=False)
    assert (None, None, None) == _channel.credentials(parse("x:1"), True, allow_plaintext=False)
    assert "PRIVATE" not in repr(content) + repr(made)


@pytest.mark.parametrize(
    ("tls", "message"),
    [
        (keyauthority.Tls(ca="/absent"), "tls: ca: No such file or directory"),
        (keyauthority.Tls(ca=b"x"), "tls: ca: holds no certificate in PEM"),
        (keyauthority.Tls(ca=_PAIR.key), "tls: ca: holds no certificate in PEM"),
        (
            keyauthority.Tls(cert=_PAIR.cert, key=_PAIR.cert),
            "tls: key: holds no private key in PEM",
        ),
        (keyauthority.Tls(cert=b"x"), "tls: cert and key belong together"),
        (keyauthority.Tls(key=b"x"), "tls: cert and key belong together"),
    ],
)
def test_invalid_tls_settings_are_refused(tls: keyauthority.Tls, message: str) -> None:
    """The error is raised at construction, not by a failed handshake."""
    with pytest.raises(keyauthority.InvalidArgument) as refused:
        _channel.credentials(parse("x:1"), tls, allow_plaintext=False)
    assert message == refused.value.message


@pytest.mark.parametrize(
    ("arguments", "variables", "expected"),
    [
        ((), {}, {"tls": False, "allow_plaintext": False}),
        (("--tls",), {}, {"tls": True, "allow_plaintext": False}),
        ((), {"TLS": "true"}, {"tls": True, "allow_plaintext": False}),
        ((), {"ALLOW_PLAINTEXT": "1"}, {"tls": False, "allow_plaintext": True}),
        (("--allow-plaintext",), {"TLS": "0"}, {"tls": False, "allow_plaintext": True}),
        (
            ("--tls-ca", "a"),
            {"TLS_CA": "b", "TLS_CLIENT_CERT": "c", "TLS_CLIENT_KEY": "k"},
            {"tls": keyauthority.Tls(ca="a", cert="c", key="k"), "allow_plaintext": False},
        ),
        (
            (),
            {"TLS_CERT": "the server's", "TLS_KEY": "the server's"},
            {"tls": False, "allow_plaintext": False},
        ),
    ],
)
def test_command_line_prefers_flags_to_the_environment(
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    variables: dict[str, str],
    expected: dict[str, object],
) -> None:
    """A flag overrides its variable; the server's variables are ignored."""
    told: dict[str, Any] = {}

    def client(**options: object) -> Callable[[], None]:
        told.update(options)
        raise keyauthority.Unavailable("seen")

    monkeypatch.setattr(session, "Client", client)
    for name, text in variables.items():
        monkeypatch.setenv(f"KEYAUTHORITY_{name}", text)
    assert 3 == command("projects", "list", *arguments).code
    assert expected == {name: told[name] for name in expected}


def test_invalid_boolean_variable_is_a_usage_error(
    command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A typing error is reported, not read as no."""
    monkeypatch.setenv("KEYAUTHORITY_TLS", "maybe")
    ended = command("projects", "list")
    assert (2, True) == (ended.code, "KEYAUTHORITY_TLS must be true or false" in ended.err)
