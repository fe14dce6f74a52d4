"""An authority, a gateway for it, and keys of each kind, shared by all tests of the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any, NamedTuple

import pytest

from keyauthority import Client, RateLimit, Restrictions, SecretKey
from keyauthority.testing import Authority
from tests.authority import client, key_authority
from tests.gateway.processes import WITHOUT_NATIVE, Gateway, gateway
from tests.service.processes import shim

__all__ = ["client", "key_authority"]


class Keys(NamedTuple):
    """Keys of one project."""

    project_id: str
    reader: SecretKey
    """Restricted to orders:read, live."""
    secret: SecretKey
    """Secret, live."""
    test: SecretKey
    """Secret, test."""
    local: SecretKey
    """Allowed from 192.0.2.7 only."""
    revoked: SecretKey


@pytest.fixture(scope="session")
def keys(client: Client) -> Keys:
    """Keys that no test changes."""
    project_id = client.create_project("Shop").project_id

    def new(**fields: Any) -> SecretKey:
        fields = {"mode": "live", "kind": "secret"} | fields
        return client.create_key(project_id, **fields).secret_key

    revoked = client.create_key(project_id, mode="live", kind="secret")
    client.revoke_key(revoked.key.access_key, reason="key_compromise")
    return Keys(
        project_id,
        new(kind="restricted", permissions=["orders:read"]),
        new(),
        new(mode="test"),
        new(restrictions=Restrictions(allowed_ips=("192.0.2.7",))),
        revoked.secret_key,
    )


def limited_key(client: Client, project_id: str) -> SecretKey:
    """Return a new key with two uses in an hour."""
    limit = RateLimit(2, timedelta(hours=1))
    return client.create_key(project_id, mode="live", kind="secret", rate_limit=limit).secret_key


@pytest.fixture(scope="session")
def operator(key_authority: Authority) -> dict[str, str]:
    """The settings of a gateway with the first operator key."""
    return {"KEYAUTHORITY_OPERATOR_KEY": key_authority.operator_key}


@pytest.fixture(scope="session", params=["native", "grpcio"])
def sidecar(
    request: pytest.FixtureRequest,
    key_authority: Authority,
    operator: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Gateway]:
    """A gateway on each gRPC server, which trusts one proxy."""
    settings = dict(operator)
    if request.param == "grpcio":
        folder = tmp_path_factory.mktemp("shim") / "path"
        settings["PYTHONPATH"] = str(shim(folder, WITHOUT_NATIVE))
    with gateway(key_authority.address, "--trusted-proxies", "1", settings=settings) as running:
        yield running


one_sidecar = pytest.mark.parametrize("sidecar", ["native"], indirect=True)
"""For a test to which the gRPC server makes no difference."""
