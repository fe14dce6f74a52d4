"""Tokens of another system, and their import."""

from __future__ import annotations

import base64
import hashlib
import secrets
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import pytest

from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority.v1 import key_pb2
from tests.service.callers import Caller
from tests.service.forkserver import shared
from tests.service.processes import ServerProcess

SCHEMES: Final[dict[str, Callable[[bytes], str]]] = {
    "SHA256_HEX": lambda text: hashlib.sha256(text).hexdigest(),
    "SHA256_BASE64": lambda text: base64.b64encode(hashlib.sha256(text).digest()).decode(),
    "SHA256_BASE64URL": lambda text: (
        base64.urlsafe_b64encode(hashlib.sha256(text).digest()).decode().rstrip("=")
    ),
    "SHA512_HEX": lambda text: hashlib.sha512(text).hexdigest(),
}
PREFIX: Final = "old_"


def new_token(prefix: str = PREFIX) -> str:
    """Return a token of another system."""
    return f"{prefix}{secrets.token_urlsafe(24)}"[:36]


def import_set(name: str = "", scheme: str = "SHA256_HEX", **shape: Any) -> pb.ImportSet:
    """Return a set whose tokens have 36 characters, by default with a name of its own."""
    return pb.ImportSet(
        name=name or f"set-{secrets.token_hex(8)}",
        scheme=pb.ImportScheme.Value(f"IMPORT_SCHEME_{scheme}"),
        **{"token_prefix": PREFIX, "token_length_min": 36, "token_length_max": 36, **shape},
    )


def item(token: str, project: str, scheme: str = "SHA256_HEX", **fields: Any) -> pb.ImportedKey:
    """Return a TEST key with the digest of the whole token."""
    return pb.ImportedKey(
        **{
            "digest": SCHEMES[scheme](token.encode()),
            "project_id": project,
            "mode": key_pb2.KEY_MODE_TEST,
            "kind": key_pb2.KEY_KIND_SECRET,
            **fields,
        }
    )


def imported(root: Caller, wanted: pb.ImportSet, items: Iterable[pb.ImportedKey]) -> list[str]:
    """Import keys that must all be new; return their access keys."""
    answer = root.ask(pb.ImportKeysRequest(import_set=wanted, keys=items))
    assert all(result.created and not result.HasField("error") for result in answer.results)
    return [result.access_key for result in answer.results]


def own_server(
    engine: str, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """Run a server of a module's own: on a shared one, its sets would fit the texts of others."""
    flags = []
    if engine == "postgres":
        flags = ["--store", request.getfixturevalue("cluster").create(), "--max-staleness", "30s"]
    running = shared().start(tmp_path_factory.mktemp("imports") / "data", *flags)
    yield running
    running.stop()
