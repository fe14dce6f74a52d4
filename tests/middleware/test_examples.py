"""The examples are runnable services: each is started unmodified and called."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from keyauthority import Client, SecretKey
from keyauthority.testing import Authority

EXAMPLES: Final = Path(__file__).parents[2] / "examples"


def loaded(name: str) -> ModuleType:
    """An example, as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def surroundings(key_authority: Authority) -> dict[str, str]:
    """The environment of the examples."""
    return {
        "KEYAUTHORITY_ADDRESS": key_authority.address,
        "KEYAUTHORITY_OPERATOR_KEY": key_authority.operator_key,
    }


async def test_fastapi_example_serves_valid_keys(
    surroundings: dict[str, str],
    project_id: str,
    reader: SecretKey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its lifespan opens the verifier, and its route names the caller's project."""
    for name, text in surroundings.items():
        monkeypatch.setenv(name, text)
    app = loaded("fastapi_orders").app
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as browser,
    ):
        served = await browser.get("/orders", headers={"x-api-key": reader.reveal()})
        refused = await browser.get("/orders")
    assert (200, project_id) == (served.status_code, served.json()["project_id"])
    assert (401, {"detail": {"error": "no_key"}}) == (refused.status_code, refused.json())


def test_grpc_example_serves_valid_keys(
    client: Client, surroundings: dict[str, str], project_id: str
) -> None:
    """It names the caller and rejects calls without a key."""
    created = client.create_key(
        project_id, mode="test", kind="restricted", permissions=["health:read"]
    )
    with subprocess.Popen(
        [sys.executable, str(EXAMPLES / "grpc_orders.py")],
        env=os.environ | surroundings | {"LISTEN": "127.0.0.1:0"},
        stdout=subprocess.PIPE,
        text=True,
    ) as example:
        try:
            assert example.stdout is not None
            port = example.stdout.readline().rpartition(" ")[2].strip()
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                stub: Any = health_pb2_grpc.HealthStub(channel)  # typed for grpc.aio only
                request = health_pb2.HealthCheckRequest()
                answer = stub.Check(request, metadata=[("x-api-key", created.secret_key.reveal())])
                with pytest.raises(grpc.RpcError) as refused:
                    stub.Check(request)
            assert health_pb2.HealthCheckResponse.SERVING == answer.status
            assert grpc.StatusCode.UNAUTHENTICATED is refused.value.code()
            assert f"called by {created.key.access_key}\n" == example.stdout.readline()
        finally:
            example.terminate()
