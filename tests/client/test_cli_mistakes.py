"""Common command line mistakes: one line each, in the user's words, with an exit code."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import pytest
from cryptography.x509 import DNSName, IPAddress

from keyauthority.errors import ErrorReason, bad_field, error
from keyauthority_server.rpc.field_rules import NO_PROJECT
from tests.client.conftest import Command
from tests.client.fake_authority import FakeAuthority
from tests.client.records import OPERATOR_KEY, PROJECT_ID, TOKEN, VALID_ANSWER
from tests.service.certificates import Issuer

CREATE: Final = "keys create --kind restricted"
LIST: Final = "projects list"
NO_SERVER: Final = "127.0.0.1:1"


class Places(NamedTuple):
    """The address that the commands below use."""

    tls: str
    other_name: str
    ca: Path
    other_ca: Path
    silent: str


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Places]:
    """Two servers with TLS, of which one has the certificate of another name, and a silent port."""
    folder = tmp_path_factory.mktemp("tls")
    issuer = Issuer()
    ca, other_ca = folder / "ca.pem", folder / "other.pem"
    ca.write_bytes(issuer.pem)
    other_ca.write_bytes(Issuer().pem)
    server = grpc.server(ThreadPoolExecutor(2))
    ports = []
    for name in (IPAddress(ip_address("127.0.0.1")), DNSName("keys.example.org")):
        pair = issuer.issue(name)
        credentials = grpc.ssl_server_credentials([(pair.key, pair.cert)])
        ports.append(server.add_secure_port("127.0.0.1:0", credentials))
    server.start()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mute = f"127.0.0.1:{silent.getsockname()[1]}"
        yield Places(f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}", ca, other_ca, mute)
    server.stop(None).wait()


def _field(name: str) -> Any:
    return bad_field(name, "breaks its rule")


SENT: Final[list[tuple[str, Any, int, str]]] = [
    (
        LIST,
        error(ErrorReason.CREDENTIAL_MISSING, "x"),
        2,
        (
            "no operator key: set KEYAUTHORITY_OPERATOR_KEY or KEYAUTHORITY_OPERATOR_KEY_FILE"
            " (credential_missing) [UNAUTHENTICATED]"
        ),
    ),
    (
        LIST,
        error(ErrorReason.CREDENTIAL_INVALID, "x"),
        1,
        (
            "KEYAUTHORITY_OPERATOR_KEY: the operator key is not valid: it was revoked, has expired,"
            " or belongs to another authority (credential_invalid) [UNAUTHENTICATED]"
        ),
    ),
    (
        "project-id",
        error(ErrorReason.CREDENTIAL_INVALID, "the credential is not valid"),
        1,
        "the credential is not valid (credential_invalid) [UNAUTHENTICATED]",
    ),
    (
        LIST,
        error(ErrorReason.PERMISSION_MISSING, "the caller lacks projects:read"),
        1,
        "the caller lacks projects:read (permission_missing) [PERMISSION_DENIED]",
    ),
    (
        f"{CREATE} --ttl 1s",
        _field("ttl"),
        1,
        "--ttl: breaks its rule (invalid_field) [INVALID_ARGUMENT]",
    ),
    (
        f"{CREATE} --permission a:b --permission orders",
        _field("permissions[1]"),
        1,
        "--permission orders: breaks its rule (invalid_field) [INVALID_ARGUMENT]",
    ),
    (
        f"{CREATE} --allowed-ip 10.0.0.0/99",
        _field("restrictions.allowed_ips[0]"),
        1,
        "--allowed-ip 10.0.0.0/99: breaks its rule (invalid_field) [INVALID_ARGUMENT]",
    ),
    (
        f"{CREATE} --android-app a=b",
        _field("restrictions.android_apps[0].sha1"),
        1,
        "--android-app number 1: breaks its rule (invalid_field) [INVALID_ARGUMENT]",
    ),
    (
        f"{CREATE} --rate-limit 1/1s",
        _field("rate_limit.period"),
        1,
        "--rate-limit: breaks its rule (invalid_field) [INVALID_ARGUMENT]",
    ),
    (
        "projects suspend Shop",
        bad_field("project_id", NO_PROJECT),
        1,
        (
            "--project-id: not a project ID, which is a UUID in lower case;"
            " `keyauthority projects list` shows them (invalid_field) [INVALID_ARGUMENT]"
        ),
    ),
    (
        "keys list --label a=b",
        _field("filter.labels"),
        1,
        "--label: breaks its rule (invalid_field) [INVALID_ARGUMENT]",
    ),
    (
        "verify --client-ip x",
        _field("client_ip"),
        3,
        "--client-ip: breaks its rule (invalid_field) [INVALID_ARGUMENT]",
    ),
    (
        LIST,
        error(ErrorReason.OVERLOADED, "too many calls"),
        3,
        "too many calls (overloaded) [RESOURCE_EXHAUSTED]",
    ),
    (
        f"{CREATE} --request-id 1",
        error(ErrorReason.STORE_UNAVAILABLE, "down"),
        3,
        (
            "down (store_unavailable) [UNAVAILABLE]; the outcome is unknown: repeat the command"
            " with --request-id 1"
        ),
    ),
]


@pytest.mark.parametrize(("line", "answer", "code", "text"), SENT)
def test_server_error_names_options_instead_of_fields(
    command: Command,
    authority: FakeAuthority,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    answer: Any,
    code: int,
    text: str,
) -> None:
    """A user of `--ttl` need not know the proto."""
    monkeypatch.setenv("KEYAUTHORITY_OPERATOR_KEY", OPERATOR_KEY)
    authority.will(answer)

    assert (code, "", f"keyauthority: {text}\n") == command(*line.split(), stdin=TOKEN.encode())


UNSENT: Final[list[tuple[str, dict[str, str], int, str]]] = [
    (
        LIST,
        {"ADDRESS": NO_SERVER},
        3,
        f": cannot reach {NO_SERVER} (KEYAUTHORITY_ADDRESS); is the server running? [UNAVAILABLE]",
    ),
    (
        f"{LIST} --address {NO_SERVER}",
        {},
        3,
        f": cannot reach {NO_SERVER} (--address); is the server running? [UNAVAILABLE]",
    ),
    (
        "verify",
        {"ADDRESS": "unix:/absent"},
        3,
        (
            ": cannot reach unix:/absent (KEYAUTHORITY_ADDRESS): no such socket; is the server"
            " running? [UNAVAILABLE]"
        ),
    ),
    (
        f"{LIST} --allow-plaintext --address absent.invalid:1",
        {},
        3,
        ": cannot reach absent.invalid:1 (--address): the name does not resolve [UNAVAILABLE]",
    ),
    (
        LIST + " --timeout 1s --address {silent}",
        {},
        3,
        ": no answer from {silent} (--address) in time [DEADLINE_EXCEEDED]",
    ),
    (
        LIST + " --tls --address {plain}",
        {},
        3,
        (
            ": {plain} (--address) does not use TLS: connect without TLS, or start the server with"
            " it [UNAVAILABLE]"
        ),
    ),
    (
        LIST,
        {"ADDRESS": "{tls}"},
        3,
        (
            ": {tls} (KEYAUTHORITY_ADDRESS) closed the connection: it may use TLS, demand a"
            " certificate, or restart [UNAVAILABLE]"
        ),
    ),
    (
        LIST + " --address {tls} --tls-ca {other_ca}",
        {},
        3,
        (
            ": the certificate of {tls} (--address) is not from a trusted issuer: name its issuer's"
            " as --tls-ca [UNAVAILABLE]"
        ),
    ),
    (
        LIST + " --address {other_name}",
        {"TLS_CA": "{ca}"},
        3,
        (
            ": the certificate of {other_name} (--address) is for another name: connect by the name"
            " it is for [UNAVAILABLE]"
        ),
    ),
    (
        f"{LIST} --address 127.0.0.1",
        {},
        2,
        (
            " projects list: --address: the port is missing; write host:port or unix:/path, as"
            " 127.0.0.1:50051"
        ),
    ),
    (
        f"{LIST} --address http://127.0.0.1:1",
        {},
        2,
        " projects list: --address: http:// is not used here: write host:port",
    ),
    (
        LIST,
        {"ADDRESS": "https://keys.example.org"},
        2,
        (
            " projects list: KEYAUTHORITY_ADDRESS: https:// is not used here: write host:port, and"
            " use --tls"
        ),
    ),
    (
        f"{LIST} --address 10.0.0.7:1",
        {},
        2,
        (
            " projects list: --address: is not on this machine, and keys would cross the network in"
            " plaintext: use --tls, or --allow-plaintext"
        ),
    ),
    (
        f"{LIST} --tls-ca /absent",
        {},
        2,
        " projects list: --tls-ca: No such file or directory",
    ),
    (
        LIST,
        {"TLS_CLIENT_CERT": "/absent", "TLS_CLIENT_KEY": "/absent"},
        2,
        " projects list: KEYAUTHORITY_TLS_CLIENT_KEY: No such file or directory",
    ),
    (
        LIST,
        {"OPERATOR_KEY_FILE": "/absent"},
        2,
        " projects list: KEYAUTHORITY_OPERATOR_KEY_FILE: /absent: No such file or directory",
    ),
    (
        LIST,
        {"OPERATOR_KEY_FILE": "/dev/null"},
        2,
        " projects list: KEYAUTHORITY_OPERATOR_KEY_FILE: /dev/null: the file is empty",
    ),
    (
        LIST,
        {"OPERATOR_KEY": "op\tlive"},
        2,
        " projects list: KEYAUTHORITY_OPERATOR_KEY: is not an operator key",
    ),
    (
        LIST,
        {"OPERATOR_KEY_FILE": "/dev/null", "OPERATOR_KEY": "x"},
        2,
        " projects list: set KEYAUTHORITY_OPERATOR_KEY or KEYAUTHORITY_OPERATOR_KEY_FILE, not both",
    ),
    (LIST, {"TLS": "ja"}, 2, " projects list: KEYAUTHORITY_TLS must be true or false"),
    (f"{LIST} --timeout 0s", {}, 2, " projects list: --timeout: must be more than 0"),
    (
        f"{CREATE} --ttl 1d --expire-time 2030-01-01T00:00Z",
        {},
        2,
        " keys create: give --expire-time or --ttl, not both",
    ),
    (
        f"{CREATE} --ttl 5x",
        {},
        2,
        " keys create: Invalid value for '--ttl': '5x' is not a number followed by d, h, m or s.",
    ),
    (
        f"{CREATE} --rate-limit 100/min",
        {},
        2,
        (
            " keys create: Invalid value for '--rate-limit': '100/min' is not a limit and a period,"
            " as 100/1m."
        ),
    ),
    (
        f"keys create --kind operator --permission keys:verify --project-id {PROJECT_ID}",
        {},
        2,
        " keys create: an operator key has no project: confine it by --operator-project",
    ),
    (
        "keys list --project x",
        {},
        2,
        " keys list: No such option '--project'. Did you mean '--project-id'?",
    ),
    ("key list", {}, 2, ": No such command 'key'. Did you mean 'keys'?"),
    (
        f"verify {TOKEN}",
        {},
        2,
        (
            " verify: Got unexpected extra argument (**********): a secret key is read from"
            " standard input or a prompt"
        ),
    ),
]


@pytest.mark.parametrize(("line", "environment", "code", "text"), UNSENT)
def test_mistake_is_reported_with_cause_and_remedy(
    command: Command,
    authority: FakeAuthority,
    places: Places,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    environment: dict[str, str],
    code: int,
    text: str,
) -> None:
    """Each error names the option or variable."""
    named = places._asdict() | {"plain": authority.address}
    for name, value in environment.items():
        monkeypatch.setenv(f"KEYAUTHORITY_{name}", value.format(**named))
    authority.will(VALID_ANSWER)

    ended = command(*line.format(**named).split(), stdin=TOKEN.encode())

    assert (code, "", f"keyauthority{text.format(**named)}\n") == ended
