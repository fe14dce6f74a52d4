"""The page for people without protobuf: its examples run, and lead to a verified key."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Final

import pytest
from google.protobuf import json_format
from google.rpc.error_details_pb2 import ErrorInfo

from tests.contract.documents import PROGRAMS, ROOT, Reader, blocks
from tests.service.processes import start

PAGE: Final = ROOT / "docs" / "from-any-language.md"


@pytest.mark.parametrize("language", ["sh", *PROGRAMS])
def test_examples_lead_to_a_verified_key(
    language: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All shell blocks in order, then that of the language, which verifies the revoked key."""
    program = PROGRAMS[language][1] if language in PROGRAMS else "curl"
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    monkeypatch.chdir(tmp_path)
    server = start(tmp_path / "keyauthority-data", "--http", "127.0.0.1:0")
    try:
        reader = Reader(PAGE, server.address, {"127.0.0.1:8080": server.http})
        shown = [reader.run(one) for one in blocks(PAGE) if one.language in ("sh", language)]
    finally:
        server.stop()
    assert any('"valid":true' in one for one in shown)
    assert any("KEY_REVOKED\n" == one for one in shown)
    assert "3.1.0" == json.loads(Path("openapi.json").read_text())["openapi"]
    assert language == "sh" or any("false VERDICT_REVOKED" in one for one in shown)


def test_every_block_is_run_or_listed() -> None:
    """A fence with another language would be skipped silently; the error shown is encoded right."""
    rest = [one for one in blocks(PAGE) if one.language not in ("sh", *PROGRAMS)]
    assert ["make serve ARGS='--http 127.0.0.1:8080'\n"] == [one.text for one in rest[:1]]
    ((detail,),) = [json.loads(one.text)["details"] for one in rest[1:]]
    info = json_format.ParseDict(detail["debug"], ErrorInfo())
    assert base64.b64encode(info.SerializeToString()).decode().rstrip("=") == detail["value"]
