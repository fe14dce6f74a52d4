"""Secrets appear in the answer that created them, and nowhere else."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from keyauthority.v1 import key_authority_service_pb2 as pb
from keyauthority.v1 import key_pb2, project_service_pb2
from tests.conftest import Start
from tests.service.callers import (
    BASE62,
    Caller,
    absent_project,
    bearer,
    key_request,
    mended,
    new_operator,
    new_project,
    revoke,
    verdict,
    verify,
    with_other_secret,
)
from tests.service.lifecycle import rotate, update
from tests.service.metrics import scrape
from tests.service.processes import ServerProcess, children, run

HOLDERS: Final = frozenset({"operator.key"})
"""Files that hold a secret, and are there to do so."""
HALF: Final = 20  # digits of 43: a text that is cut short may hold so many, never others' by chance


def marks(token: str) -> list[bytes]:
    """Forms that reveal a token: its secret as digits, also shortened, and as a number."""
    digits = token[29:72]
    ends = digits[:HALF].encode(), digits[-HALF:].encode()
    number = 0
    for digit in digits:
        number = number * 62 + BASE62.index(digit)
    raw = number.to_bytes(32)
    return [*ends, digits.encode("utf-16-le"), raw, raw.hex().encode(), raw[::-1]]


def found_in(places: dict[str, bytes], tokens: Iterable[str]) -> list[tuple[str, str]]:
    """The places in which the secret of a token stands, and the token."""
    return [
        (place, token)
        for token in tokens
        for place, content in places.items()
        if any(mark in content for mark in marks(token))
    ]


def files_in(folder: Path) -> dict[str, bytes]:
    """The content of the files of a folder."""
    return {
        str(path): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in HOLDERS
    }


def seen_of(server: ServerProcess) -> dict[str, bytes]:
    """The parts of the server's processes that other users can see."""
    pids = [server.process.pid, *server.worker_pids()]
    pids += [child for pid in server.worker_pids() for child in children(pid)]
    return {
        f"{name} of {pid}": Path(f"/proc/{pid}/{name}").read_bytes()
        for pid in pids
        for name in ("cmdline", "environ", "comm")
    }


class Life:
    """A full lifecycle: the secrets created, and all other answers."""

    def __init__(self, root: Caller) -> None:
        self.root = root
        self.tokens: list[str] = []
        self.told: list[bytes] = []
        self.project = new_project(root)

    def made(self, answer: Any) -> str:
        """Note the secret of an answer; the rest of the answer must not reveal it."""
        token = str(answer.secret_key)
        self.tokens.append(token)
        answer.ClearField("secret_key")
        self.told.append(answer.SerializeToString())
        return token

    def fails(self, request: Any, caller: Caller | None = None) -> None:
        """Make a call that is refused; note its error."""
        refused = (caller or self.root).refused(request)
        self.told.append(f"{refused.details} {refused.metadata}".encode() + refused.status)

    def live(self) -> None:
        """Make, show, use, misuse, change and end keys."""
        request_id = str(uuid.uuid4())
        request = key_request(self.project, request_id=request_id, purpose="marked")
        token = self.made(self.root.ask(request))
        assert token == self.made(self.root.ask(request))
        self.fails(key_request(self.project, request_id=request_id, purpose="other"))
        access_key = token[8:28]
        rotated = rotate(self.root, access_key, 60, request_id=str(uuid.uuid4()))
        successor = self.made(rotated)
        for secret in (token, successor):
            assert "VALID" == verdict(self.root, secret)
            answer = verify(self.root, secret, explain=True, include_record=True)
            self.told.append(answer.SerializeToString())
        for wrong in (with_other_secret(token), token[:-1] + "-", token + " ", token * 2):
            self.tokens.append(wrong if len(wrong) == len(token) else token)
            self.told.append(verify(self.root, wrong).SerializeToString())
            self.fails(pb.GetProjectIdRequest(secret_key=wrong), Caller(self.root.channel))
            self.fails(pb.RevokeKeyRequest(secret_key=wrong), Caller(self.root.channel))
        self.misplace(token)
        update(self.root, access_key, disabled=True)
        assert "DISABLED" == verdict(self.root, token)
        revoke(Caller(self.root.channel), secret_key=token)
        self.fails(request)
        self.fails(pb.GetProjectIdRequest(secret_key=token), Caller(self.root.channel))
        operator = new_operator(self.root, "*:*", projects=[self.project])
        self.tokens.append(operator.metadata[0][1].removeprefix("Bearer "))
        self.fails(pb.GetKeyRequest(access_key=operator.key.access_key), operator)
        self.fails(key_request(absent_project()), operator)
        revoke(self.root, access_key=operator.key.access_key)
        self.fails(pb.GetKeyRequest(access_key=access_key), operator)

    def misplace(self, token: str) -> None:
        """Send a token where none belongs: into other fields, headers and the path."""
        for request in (
            pb.GetKeyRequest(access_key=token),
            pb.ListKeysRequest(page_token=token),
            pb.ListKeysRequest(project_id=token),
            pb.VerifyRequest(client_ip=token, permissions=[token]),
            pb.VerifyRequest(log_id=token),
            pb.RotateKeyRequest(access_key=token[8:28], request_id=token),
            pb.UpdateKeyRequest(access_key=token[8:28], update_mask=FieldMask(paths=[token])),
            key_request(
                self.project,
                "RESTRICTED",
                permissions=[token],
                restrictions=key_pb2.Restrictions(allowed_ips=[token], allowed_referrers=[token]),
            ),
        ):
            self.fails(request)
        self.misplace_where_refusals_are_noted(token)
        root = self.root
        listing = pb.ListKeysRequest()
        for header in (
            bearer(token),
            ("authorization", token),
            ("x-auth-token", mended("op" + token[2:])),
        ):
            self.fails(listing, root.bearing(header))
        root.bearing(*root.metadata, ("x-secret", token), ("cookie", token)).ask(listing)
        for path in (f"/keyauthority.v1.KeyAuthorityService/{token}", f"/{token}/Verify"):
            call: Any = root.channel.unary_unary(path)
            with contextlib.suppress(grpc.RpcError):
                call(b"", metadata=root.metadata, timeout=10)

    def misplace_where_refusals_are_noted(self, token: str) -> None:
        """Send it in the place of an id, with no right to the call: refused before it is read."""
        nobody = new_operator(self.root, "usage:read")
        for request in (
            pb.CreateKeyRequest(project_id=token),
            pb.UpdateKeyRequest(access_key=token),
            pb.RotateKeyRequest(access_key=token[20:]),
            pb.RevokeKeyRequest(access_key=token),
            project_service_pb2.UpdateProjectRequest(project_id=token[29:]),
        ):
            self.fails(request, nobody)


@pytest.mark.parametrize(("transport", "log_format"), [("native", "text"), ("grpcio", "json")])
def test_secret_appears_only_in_its_answer(
    exec_server: Start, tmp_path: Path, data: Path, transport: str, log_format: str
) -> None:
    """Logs at DEBUG, metrics, database, WAL, backup, errors, command line, environment."""
    server = exec_server(
        *("--transport", transport, "--log-level", "debug", "--log-format", log_format),
        *("--metrics", "127.0.0.1:0") if log_format == "text" else (),
    )
    with grpc.insecure_channel(server.address) as channel:
        life = Life(Caller(channel, server.metadata))
        life.live()
    tokens = [*dict.fromkeys(life.tokens), server.operator_key]
    places = seen_of(server) | files_in(data)
    if log_format == "text":
        places["metrics"] = scrape(server).encode()
    copied = run("backup", str(tmp_path / "copy"), "--data", str(data))
    assert 0 == copied.code, copied
    places["backup"] = (tmp_path / "copy").read_bytes()
    places["backup's words"] = (copied.output + copied.log).encode()
    ended = server.stop()
    places |= files_in(data)
    places["standard output"], places["log"] = ended.output.encode(), ended.log.encode()
    for number, told in enumerate(life.told):
        places[f"answer {number}"] = told
    assert len(tokens) >= 5
    assert [] == found_in(places, tokens)
    assert len(places["backup"]) > 10_000
    assert any(token[8:28].encode() in places["backup"] for token in tokens)


def test_leaked_secret_is_found(tmp_path: Path) -> None:
    """Control: in a file, as digits or bytes, in any surroundings."""
    token = "sk_live_KAZZZZZZZZZZZZZZZZZZ_003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf3oUCG6"
    for number, mark in enumerate(marks(token)):
        (tmp_path / f"log {number}").write_bytes(b"before " + mark + b" behind")
    (tmp_path / "whole").write_text(f"created {token}\n", encoding="ascii")
    (tmp_path / "operator.key").write_text(token, encoding="ascii")
    (tmp_path / "harmless").write_text(f"{token[:29]} {token[8:28]}", encoding="ascii")
    names = sorted(Path(place).name for place, _ in found_in(files_in(tmp_path), [token]))
    assert [*(f"log {number}" for number in range(6)), "whole"] == names
    assert bytes(range(32)) == marks(token)[3]
