"""grpcurl and buf curl by reflection: the full lifecycle of a key."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.conftest import Start
from tests.service.processes import ServerProcess

CALL_SECONDS: Final = 30
KEYS: Final = "keyauthority.v1.KeyAuthorityService"
PROJECTS: Final = "keyauthority.v1.ProjectService"

Call = Callable[..., dict[str, Any]]
"""Calls a method with a body, as an operator or without a credential; returns the answer."""


def run(program: str, *arguments: str) -> dict[str, Any]:
    """Run a tool that stands beside this Python; return the JSON that it prints."""
    done = subprocess.run(
        [Path(sys.executable).with_name(program), *arguments],
        capture_output=True,
        check=False,
        text=True,
        timeout=CALL_SECONDS,
    )
    assert 0 == done.returncode, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def grpcurl(server: ServerProcess) -> Call:
    """Call with grpcurl, which prints the names of the proto by default."""

    def call(method: str, body: dict[str, Any], operator: bool = True) -> dict[str, Any]:
        header = ("-H", f"authorization: Bearer {server.operator_key}") if operator else ()
        return run("grpcurl", "-plaintext", *header, "-d", json.dumps(body), server.address, method)

    return call


def buf(server: ServerProcess) -> Call:
    """Call with buf curl."""

    def call(method: str, body: dict[str, Any], operator: bool = True) -> dict[str, Any]:
        header = ("-H", f"x-auth-token: {server.operator_key}") if operator else ()
        curl = ("curl", "--protocol", "grpc", "--http2-prior-knowledge")
        url = f"http://{server.address}/{method}"
        return run("buf", *curl, *header, "-d", json.dumps(body), url)

    return call


def field(answer: dict[str, Any], name: str) -> Any:
    """A field by its proto name, as the tool spells it."""
    head, *rest = name.split("_")
    return answer.get(name, answer.get(head + "".join(part.title() for part in rest)))


@pytest.mark.parametrize("tool", [grpcurl, buf], ids=["grpcurl", "buf"])
def test_tools_run_a_keys_lifecycle_by_reflection(
    start_server: Start, transport: str, tool: Callable[[ServerProcess], Call]
) -> None:
    """Create, VALID, project id, revoke, REVOKED; still so after kill -9 of the server."""
    server = start_server("--transport", transport)
    call = tool(server)
    made = call(f"{PROJECTS}/CreateProject", {"display_name": "Shop"})
    project_id = field(made["project"], "project_id")
    wanted = {"project_id": project_id, "mode": "KEY_MODE_TEST", "kind": "KEY_KIND_SECRET"}
    kept, gone = (call(f"{KEYS}/CreateKey", wanted) for _ in range(2))
    kept_secret, gone_secret = ({"secret_key": field(one, "secret_key")} for one in (kept, gone))
    assert "VERDICT_VALID" == call(f"{KEYS}/Verify", gone_secret)["verdict"]
    answer = call(f"{KEYS}/GetProjectId", gone_secret, operator=False)
    assert project_id == field(answer, "project_id")
    revoked = call(f"{KEYS}/RevokeKey", {"access_key": field(gone["key"], "access_key")})
    assert "KEY_STATE_REVOKED" == revoked["key"]["state"]
    assert "VERDICT_REVOKED" == call(f"{KEYS}/Verify", gone_secret)["verdict"]
    server.kill()
    call = tool(start_server("--transport", transport))
    assert "VERDICT_REVOKED" == call(f"{KEYS}/Verify", gone_secret)["verdict"]
    assert "VERDICT_VALID" == call(f"{KEYS}/Verify", kept_secret)["verdict"]
    answer = call(f"{KEYS}/GetProjectId", kept_secret, operator=False)
    assert project_id == field(answer, "project_id")
