"""The public names, their import cost, and type checks of a user's program."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import keyauthority
from keyauthority import AsyncClient, AsyncVerifier, Client, Verifier

_ROOT = Path(__file__).resolve().parents[2]

_PROGRAM = """
import asyncio
import keyauthority


def main(operator_key: str) -> str:
    with keyauthority.Client("127.0.0.1:50051", operator_key=operator_key) as authority:
        project = authority.create_project("Shop")
        created = authority.create_key(
            project.project_id,
            mode="test",
            kind="restricted",
            purpose="nightly export",
            permissions=["orders:read"],
        )
        secret_key: keyauthority.SecretKey = created.secret_key
        access_key: str = created.key.access_key
        revision: int = created.revision
        verdict = authority.verify(
            secret_key,
            permissions=["orders:read"],
            client_ip="10.0.0.7",
            at_least_revision=revision,
        )
        code: keyauthority.VerdictCode = verdict.code
        for key in authority.list_keys(project.project_id, state="active"):
            purpose: str = key.purpose
        authority.update_key(access_key, expire_time=None, disabled=False, etag=key.etag)
        rotated = authority.rotate_key(access_key)
        secret_key = rotated.secret_key
        for row in authority.get_usage(project.project_id, granularity="day"):
            count: int = row.count
        try:
            authority.revoke_key(access_key, reason="key_compromise")
        except keyauthority.NotFound as error:
            reason: keyauthority.ErrorReason | None = error.reason
        return authority.get_project_id(access_key, secret_key)


async def amain() -> bool:
    async with keyauthority.AsyncClient() as authority:
        async for project in authority.list_projects():
            name: str = project.display_name
        verdicts: tuple[keyauthority.Verdict, ...] = await authority.batch_verify(["a", "b"])
        return (await authority.verify("secret")).valid and verdicts[0].valid


if __name__ == "__main__":
    main("")
    asyncio.run(amain())
"""


_PUBLIC = [
    "TOKEN_PATTERN",
    "UNCHANGED",
    "Aborted",
    "Advisory",
    "AdvisoryType",
    "AlreadyExists",
    "AndroidApp",
    "ApiTarget",
    "ApiTargetRestriction",
    "App",
    "AsyncClient",
    "AsyncListing",
    "AsyncVerifier",
    "AsyncWatch",
    "CallerIdentity",
    "Change",
    "ChangeType",
    "Client",
    "CreatedKey",
    "DeadlineExceeded",
    "ErrorReason",
    "Event",
    "Facts",
    "FailedPrecondition",
    "FieldChange",
    "FieldViolation",
    "ImportFailure",
    "ImportResult",
    "ImportScheme",
    "ImportSet",
    "ImportedKey",
    "ImportedKeys",
    "Internal",
    "InvalidArgument",
    "Key",
    "KeyAuthorityError",
    "KeyKind",
    "KeyLookup",
    "KeyMode",
    "KeyObservation",
    "KeyState",
    "Listing",
    "NotFound",
    "Page",
    "PermissionDenied",
    "Project",
    "Quota",
    "QuotaPeriod",
    "RateLimit",
    "ResourceExhausted",
    "Restrictions",
    "RevokeReason",
    "RevokedKey",
    "RotatedKey",
    "SecretKey",
    "Standing",
    "Tls",
    "TokenPart",
    "Unauthenticated",
    "Unavailable",
    "Unchanged",
    "Unimplemented",
    "UsageGranularity",
    "UsageRow",
    "Verdict",
    "VerdictCode",
    "Verifier",
    "VerifyQuery",
    "Watch",
    "WatchUpdate",
    "WrittenKey",
    "WrittenProject",
    "__version__",
]


def test_public_names_are_exactly_these() -> None:
    """Adding or removing one is deliberate: here and in the changelog."""
    assert sorted(keyauthority.__all__) == sorted(_PUBLIC)
    assert [name for name in _PUBLIC if not hasattr(keyauthority, name)] == []


def _public(client: type[object]) -> dict[str, inspect.Signature]:
    return {
        name: inspect.signature(value)
        for name, value in inspect.getmembers(client, inspect.isfunction)
        if not name.startswith("_") or name == "__init__"
    }


def test_clients_have_equal_signatures() -> None:
    """Only the results differ: one client's are awaited."""
    sync = {name: list(one.parameters.values()) for name, one in _public(Client).items()}
    awaited = {name: list(one.parameters.values()) for name, one in _public(AsyncClient).items()}

    assert {"__init__", "create_key", "report_usage"} <= sync.keys()
    assert sync == awaited


def test_verifiers_have_the_clients_verify_signature() -> None:
    """They are interchangeable; the verifier's timeout is set once."""
    sync, awaited = _public(Verifier), _public(AsyncVerifier)
    remote = _public(Client)["verify"]
    local = [one for name, one in remote.parameters.items() if name != "timeout"]

    assert local == list(sync["verify"].parameters.values())
    assert remote.return_annotation == sync["verify"].return_annotation
    assert {name: list(one.parameters) for name, one in sync.items()} == {
        name: list(one.parameters) for name, one in awaited.items()
    }
    assert sync["verify"] == awaited["verify"]


def test_middleware_without_a_framework_is_importable() -> None:
    """Only the module of a framework requires it."""
    script = """
import sys
sys.modules.update(dict.fromkeys(("fastapi", "starlette", "pytest", "keyauthority_server"), None))
import keyauthority.middleware.asgi
import keyauthority.middleware.grpc
import keyauthority.middleware.wsgi
import keyauthority.testing
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )

    assert (ended.returncode, ended.stderr) == (0, "")


def test_clients_return_equal_types() -> None:
    """A result has one type in both clients."""
    sync = {name: str(one.return_annotation) for name, one in _public(Client).items()}
    awaited = {
        name: str(one.return_annotation)
        .replace("AsyncListing", "Listing")
        .replace("AsyncWatch", "Watch")
        for name, one in _public(AsyncClient).items()
    }

    assert sync == awaited


def test_first_call_of_a_thread_imports_no_module() -> None:
    """A process that is forked meanwhile would keep a half of the module, and its lock."""
    script = """
import sys, threading, keyauthority
loaded = set(sys.modules)
client = keyauthority.Client("127.0.0.1:1", timeout=0.01)
call = threading.Thread(target=lambda: client.verify("x"))
threading.excepthook = lambda failed: print(failed.exc_type.__name__)
call.start(), call.join()
print(sorted(set(sys.modules) - loaded))
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    failure, imported = ended.stdout.splitlines()
    assert failure in {"DeadlineExceeded", "Unavailable"}
    assert imported == "[]"


def test_first_calls_of_the_asyncio_client_import_no_module() -> None:
    """As in a thread: unary, a stream, a verifier, and over TLS."""
    script = """
import asyncio, sys, keyauthority
loaded = set(sys.modules)
async def fail(call):
    try:
        await call
    except keyauthority.KeyAuthorityError as failed:
        print(type(failed).__name__)
async def run():
    for tls in False, True:
        async with keyauthority.AsyncClient("127.0.0.1:1", timeout=0.01, tls=tls) as client:
            await fail(client.verify("x"))
            await fail(anext(aiter(client.watch_changes())))
            async with keyauthority.AsyncVerifier(client) as verifier:
                await fail(verifier.verify("x"))
asyncio.run(run())
print(sorted(set(sys.modules) - loaded))
"""
    ended = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    )
    *failures, imported = ended.stdout.splitlines()
    assert 6 == len(failures)
    assert imported == "[]"


def test_client_imports_neither_server_nor_command_line() -> None:
    """It loads gRPC and protobuf, and no optional dependency."""
    script = "import sys, keyauthority; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], check=True, capture_output=True, text=True
    ).stdout.split()

    unwanted = {"keyauthority_server", "keyauthority.cli", "click", "rich", "sqlite3"}
    assert unwanted.intersection(loaded) == set()


def test_command_line_without_its_extra_names_the_install_command() -> None:
    """The base install has the entry point: one line, no traceback."""
    script = "import sys; sys.modules['click'] = None; import keyauthority.cli as c; c.main()"
    ended = subprocess.run(
        [sys.executable, "-c", script], check=False, capture_output=True, text=True
    )

    expected = "keyauthority: the command line needs more: install keyauthority[cli]\n"
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", expected)


def test_user_program_passes_mypy_strict(tmp_path: Path) -> None:
    """The published types are complete and contain no gRPC type."""
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM, encoding="utf-8")
    checked = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--follow-imports=silent",
            "--config-file=",
            str(program),
        ],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={"MYPYPATH": str(_ROOT / "client"), "PATH": "/usr/bin:/bin"},
    )

    assert (checked.stdout, checked.returncode) == (
        "Success: no issues found in 1 source file\n",
        0,
    )
