"""The wheel: the client needs only grpcio and protobuf, and nothing foreign is shipped."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from typing import Final
from zipfile import ZipFile

import pytest

from tests.service.processes import environment

pytestmark = pytest.mark.xdist_group("wheel")  # one for all

ROOT: Final = Path(__file__).parents[2]
BUILD_SECONDS: Final = 110
BASE: Final = {"grpcio", "grpcio-status", "protobuf"}
CONSOLE_FILES: Final = ("keyauthority/console/templates/", "keyauthority/console/static/")
OPENAPI: Final = "keyauthority_server/transport/http/openapi.json"
PACKAGES: Final = {"keyauthority", "keyauthority_server"}
IMPORTED: Final = {"keyauthority", "grpc", "grpc_status", "google", "typing_extensions"}
"""Modules that `import keyauthority` may load after grpc, which looks for its own extras."""

SHOW_IMPORTS: Final = """
import sys
import grpc
before = set(sys.modules)
import keyauthority
print(keyauthority.__file__)
print(*{name.partition(".")[0] for name in set(sys.modules) - before} - sys.stdlib_module_names)
"""


def pip(*arguments: str) -> None:
    """Run pip, quietly."""
    quiet = ("--quiet", "--disable-pip-version-check", "--no-deps")
    command = [sys.executable, "-m", "pip", *arguments[:1], *quiet, *arguments[1:]]
    done = subprocess.run(
        command, capture_output=True, check=False, text=True, timeout=BUILD_SECONDS
    )
    assert 0 == done.returncode, done.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this tree."""
    folder = tmp_path_factory.mktemp("wheel")
    here = importlib.util.find_spec("hatchling") is not None
    pip("wheel", *(["--no-build-isolation"] if here else []), "--wheel-dir", str(folder), str(ROOT))
    (made,) = folder.glob("*.whl")
    return made


def names(wheel: Path) -> list[str]:
    """The paths of all files in the wheel."""
    with ZipFile(wheel) as archive:
        return archive.namelist()


def metadata(wheel: Path) -> Message:
    """The metadata of the wheel."""
    with ZipFile(wheel) as archive:
        (path,) = [name for name in names(wheel) if name.endswith(".dist-info/METADATA")]
        return message_from_bytes(archive.read(path))


def test_wheel_contains_only_the_two_packages_and_an_entry_point(wheel: Path) -> None:
    """No google/, tests, caches or data except the console's files and openapi.json."""
    top = {name.partition("/")[0] for name in names(wheel)}
    assert {*PACKAGES, "keyauthority_cli"} == {
        name for name in top if not name.endswith(".dist-info")
    }
    code = {name for name in names(wheel) if not name.startswith(CONSOLE_FILES)} - {OPENAPI}
    kinds = {Path(name).suffix for name in code if ".dist-info/" not in name}
    assert {".py", ".pyi", ".typed"} >= kinds
    assert not [name for name in names(wheel) if "tests/" in name or "__pycache__" in name]


def test_wheel_is_marked_as_typed(wheel: Path) -> None:
    """Both packages have py.typed, and the stubs have their types."""
    shipped = set(names(wheel))
    assert {f"{package}/py.typed" for package in PACKAGES} <= shipped
    assert "keyauthority/v1/key_authority_service_pb2.pyi" in shipped


def test_wheel_contains_every_module(wheel: Path) -> None:
    """Every importable module of the tree is shipped."""
    here = {
        str(path.relative_to(ROOT / side))
        for side in ("client", "server")
        for path in (ROOT / side).rglob("*.py")
    }
    assert here == {name for name in names(wheel) if name.endswith(".py")}


def test_wheel_contains_the_files_of_the_console(wheel: Path) -> None:
    """Its templates, style sheet, script and icon."""
    here = {
        str(path.relative_to(ROOT / "client"))
        for folder in CONSOLE_FILES
        for path in (ROOT / "client" / folder).iterdir()
    }
    assert here == {name for name in names(wheel) if name.startswith(CONSOLE_FILES)}
    assert {".html", ".css", ".js", ".svg"} == {Path(name).suffix for name in here}


def test_base_requires_only_grpcio_and_protobuf(wheel: Path) -> None:
    """All other dependencies belong to an extra."""
    required = metadata(wheel).get_all("Requires-Dist", [])
    base = [line for line in required if "extra ==" not in line]
    assert BASE == {re.split(r"[^A-Za-z0-9-]", line, maxsplit=1)[0] for line in base}
    extras = set(metadata(wheel).get_all("Provides-Extra", []))
    assert {"cli", "console", "server", "native", "postgres"} <= extras


def test_both_command_lines_are_installed(wheel: Path) -> None:
    """The scripts have the contract's names."""
    with ZipFile(wheel) as archive:
        (path,) = [name for name in names(wheel) if name.endswith("entry_points.txt")]
        text = archive.read(path).decode()
    scripts = {line.partition("=")[0].strip() for line in text.splitlines() if "=" in line}
    assert {"keyauthority", "keyauthority-server"} == scripts


def test_importing_the_client_loads_only_its_base(wheel: Path, tmp_path: Path) -> None:
    """Neither the server nor click, rich or another extra's dependency."""
    pip("install", "--target", str(tmp_path), str(wheel))
    done = subprocess.run(
        [sys.executable, "-c", SHOW_IMPORTS],
        capture_output=True,
        check=True,
        cwd=tmp_path,
        env=environment({"PYTHONPATH": str(tmp_path)}),
        text=True,
    )
    place, loaded = done.stdout.splitlines()
    assert Path(place).is_relative_to(tmp_path)
    foreign = {name for name in loaded.split() if not name.startswith("_")}
    assert {"keyauthority", "google"} <= foreign
    assert IMPORTED >= foreign
