"""Independent clients of the HTTP end: Connect's own, and schemathesis by the OpenAPI document."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest
from connectrpc.client import ConnectClientSync
from connectrpc.code import Code
from connectrpc.compat import google_protobuf_binary_codec, google_protobuf_json_codec
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from google.protobuf import message_factory

from keyauthority import Client
from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority.v1 import project_service_pb2
from tests.conftest import HTTP_SERVER
from tests.proofs import Proof, scaled
from tests.service.callers import METHODS, key_request
from tests.service.processes import ServerProcess

pytestmark = pytest.mark.parametrize("server", [HTTP_SERVER], indirect=True)

CASES: Final = scaled(short=100, each=10_000)  # requests of schemathesis
CHECKS: Final = "not_a_server_error,content_type_conformance,response_schema_conformance"
CASES_OF_OPERATION: Final = CASES * 4 // (3 * len(METHODS))  # some have fewer different requests
HOOKS: Final = Path(__file__).with_name("schemathesis_hooks.py")
RIGHTS: Final = ("keys:*", "projects:*", "usage:*", "audit:read", "operators:read")
"""Not those to end the key itself: every later request would be refused."""


class ConnectCaller:
    """Makes calls with the Connect client for Python."""

    def __init__(self, client: ConnectClientSync, operator_key: str) -> None:
        self._client = client
        self._headers = {"authorization": f"Bearer {operator_key}"}

    def ask(self, request: Any) -> Any:
        """Make the call of a request; return the response, of a stream an iterator."""
        method = METHODS[request.DESCRIPTOR.name.removesuffix("Request")]
        stream = method.server_streaming
        described = MethodInfo(
            name=method.name,
            service_name=method.containing_service.full_name,
            input=type(request),
            output=message_factory.GetMessageClass(method.output_type),
            idempotency_level=IdempotencyLevel.UNKNOWN,
            stream_type=StreamType.SERVER_STREAM if stream else StreamType.UNARY,
        )
        make = self._client.execute_server_stream if stream else self._client.execute_unary
        return make(request=request, method=described, headers=self._headers, timeout_ms=20_000)


@pytest.mark.parametrize("codec", ["json", "proto"])
def test_connect_client_makes_all_kinds_of_calls(server: ServerProcess, codec: str) -> None:
    """Unary calls in both codecs with its gzip, errors with details, and a stream in JSON."""
    codecs = {"json": google_protobuf_json_codec(), "proto": google_protobuf_binary_codec()}
    with ConnectClientSync(f"http://{server.http}", codec=codecs[codec]) as client:
        caller = ConnectCaller(client, server.operator_key)
        project = caller.ask(project_service_pb2.CreateProjectRequest()).project.project_id
        made = caller.ask(key_request(project))
        assert caller.ask(pb.VerifyRequest(secret_key=made.secret_key)).valid
        with pytest.raises(ConnectError) as refused:
            caller.ask(pb.GetKeyRequest(access_key="KA" + "0" * 18))
        assert Code.NOT_FOUND is refused.value.code
        (detail,) = refused.value.details
        assert "google.rpc.ErrorInfo" == detail.type_name
        assert b"ERROR_REASON_KEY_NOT_FOUND" in detail.message_bytes
        if codec == "json":
            start = pb.WatchChangesRequest(from_revision=made.revision - 1)
            first = next(iter(caller.ask(start)))
            assert made.key.access_key == first.changes[0].keys[0].access_key


@pytest.mark.case(5)
@pytest.mark.timeout(120 + CASES // 4)
def test_schemathesis_finds_no_server_error(
    server: ServerProcess, tmp_path: Path, proof: Proof
) -> None:
    """Requests drawn from the document, good and bad; none is answered with 5xx."""
    with Client(server.address, operator_key=server.operator_key) as client:
        projects = [client.create_project("Fuzzed").project_id for _ in range(5)]
        keys = [
            client.create_key(projects[number % 5], mode="test", kind="secret").key.access_key
            for number in range(40)
        ]
        caller = "" + client.create_key(kind="operator", permissions=RIGHTS).secret_key
    report = tmp_path / "report.ndjson"
    command = [
        *(str(Path(sys.executable).parent / "schemathesis"), "run"),
        *(f"http://{server.http}/openapi.json", "--checks", CHECKS),
        *("--header", f"Authorization: Bearer {caller}"),
        *("--generation-with-security-parameters", "false"),
        *("--max-examples", str(CASES_OF_OPERATION), "--workers", "2", "--seed", "1"),
        *("--phases", "examples,fuzzing", "--mode", "all", "--suppress-health-check", "all"),
        *("--exclude-operation-id", "WatchChanges"),
        *("--report", "ndjson", "--report-ndjson-path", str(report)),
    ]
    done = subprocess.run(
        command,
        capture_output=True,
        check=False,
        cwd=tmp_path,  # it keeps a cache where it runs
        env=os.environ
        | {
            "SCHEMATHESIS_HOOKS": str(HOOKS),
            "KEYAUTHORITY_TEST_NAMES": json.dumps({"accessKey": keys, "projectId": projects}),
        },
        text=True,
        timeout=100 + CASES // 5,
    )
    assert 0 == done.returncode, done.stdout[-4_000:] + done.stderr[-1_000:]
    statuses = statuses_in(report)
    assert statuses[200] > 2 * statuses.get(401, 0), statuses
    assert statuses.keys() & {400, 404}
    assert not [status for status in statuses if status >= 500]
    assert sum(statuses.values()) >= CASES
    proof.done(
        f"{sum(statuses.values())} requests of schemathesis: {dict(sorted(statuses.items()))}"
    )


def statuses_in(report: Path) -> dict[int, int]:
    """The number of responses by status."""
    counts: dict[int, int] = {}

    def look(tree: Any) -> None:
        if isinstance(tree, dict):
            status = tree.get("status_code")
            if isinstance(status, int):
                counts[status] = counts.get(status, 0) + 1
            for value in tree.values():
                look(value)
        elif isinstance(tree, list):
            for value in tree:
                look(value)

    for line in report.read_text(encoding="utf-8").splitlines():
        look(json.loads(line))
    return counts
