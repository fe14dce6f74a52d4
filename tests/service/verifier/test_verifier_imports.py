"""Verifiers judge tokens of imported keys like any other."""

from __future__ import annotations

import pytest

from keyauthority import Client, ImportedKey, ImportScheme, ImportSet, VerdictCode
from keyauthority.model import KeyKind, KeyMode
from tests.conftest import one_server
from tests.service.imports import SCHEMES, new_token
from tests.service.processes import ServerProcess, wait_until
from tests.service.verifiers import PATIENT, VERIFIERS


def import_one(client: Client, project_id: str, token: str, prefix: str) -> str:
    """Import the key of a token; return its access key."""
    shape = {"token_prefix": prefix, "token_length_min": 36, "token_length_max": 36}
    wanted = ImportSet(name=f"of-{prefix}", scheme=ImportScheme.SHA256_HEX, **shape)  # type: ignore[arg-type]
    key = ImportedKey(
        digest=SCHEMES["SHA256_HEX"](token.encode()),
        project_id=project_id,
        mode=KeyMode.TEST,
        kind=KeyKind.SECRET,
    )
    (result,) = client.import_keys(wanted, [key]).results
    assert result.created
    return result.access_key


@one_server
@pytest.mark.parametrize("kind", VERIFIERS)
def test_imported_token_is_judged_locally_and_revoked_within_the_watch(
    server: ServerProcess, kind: str
) -> None:
    """Also a key that is imported while the verifier runs."""
    prefix = f"{kind[:8]}_"
    with (
        Client(server.address, operator_key=server.operator_key) as client,
        VERIFIERS[kind](server.address, server.operator_key, **PATIENT) as verifier,
    ):
        project_id = client.create_project("imports").project_id
        token = new_token(prefix)
        assert VerdictCode.MALFORMED is verifier.verify(token).code
        access_key = import_one(client, project_id, token, prefix)
        wait_until(lambda: VerdictCode.VALID is verifier.verify(token).code)
        asked = len(verifier.asked)
        assert access_key == verifier.verify(token).access_key
        assert VerdictCode.UNKNOWN is verifier.verify(other := new_token(prefix)).code
        assert asked + 1 == len(verifier.asked)
        assert VerdictCode.UNKNOWN is verifier.verify(other).code
        assert asked + 1 == len(verifier.asked)
        client.revoke_key(access_key)
        wait_until(lambda: VerdictCode.REVOKED is verifier.verify(token).code)
