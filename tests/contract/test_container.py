"""The container files: their commands are valid, their health check tells the truth."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.conftest import Start
from tests.contract.documents import ROOT
from tests.service.forkserver import shared
from tests.service.processes import environment

CONTAINERFILE: Final = (ROOT / "Containerfile").read_text(encoding="utf-8")
LOOPBACK, TLS = "compose.loopback.yaml", "compose.yaml"
ONE_LINE: Final = r"^{} (.+)$"


def instruction(name: str) -> str:
    """The rest of the last line of the Containerfile that starts with this instruction."""
    return str(re.findall(ONE_LINE.format(name), CONTAINERFILE, re.MULTILINE)[-1])


def service(file: str) -> dict[str, Any]:
    """The service of a compose file."""
    loaded = yaml.safe_load((ROOT / file).read_text(encoding="utf-8"))
    return dict(loaded["services"]["keyauthority"])


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (json.loads(instruction("CMD")), "allow_plaintext = false"),
        (service(LOOPBACK)["command"], "allow_plaintext = true"),
    ],
    ids=["image", LOOPBACK],
)
def test_container_commands_are_accepted(words: list[str], shown: str) -> None:
    """The flags are those of `serve`, which refuses plaintext unless it is allowed."""
    assert ["keyauthority-server"] == json.loads(instruction("ENTRYPOINT"))
    assert "serve" == words[0]
    outcome = shared().run("config", "show", *words[1:])
    assert (0, True) == (outcome.code, shown in outcome.output), outcome.log


def test_health_check_is_healthy_only_while_the_server_answers(start_server: Start) -> None:
    """Docker reserves all codes but 0 and 1."""
    check = instruction("HEALTHCHECK").partition(" CMD ")[2]
    server = start_server()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    settings = environment({"KEYAUTHORITY_ADDRESS": server.address, "PATH": path})

    def code() -> int:
        shell = ["/bin/sh", "-c", check]
        return subprocess.run(shell, check=False, env=settings, capture_output=True).returncode

    assert 0 == code()
    server.stop()
    assert 1 == code()


@pytest.mark.parametrize("file", [LOOPBACK, TLS])
def test_compose_files_check_health_as_the_image_does(file: str) -> None:
    """Podman builds images without a health check by default."""
    assert instruction("HEALTHCHECK").endswith(f" CMD {service(file)['healthcheck']['test']}")


def test_plaintext_is_published_on_loopback_only() -> None:
    """The two files differ in certificates and addresses alone."""
    loopback, tls = service(LOOPBACK), service(TLS)
    assert ["127.0.0.1:50051:50051"] == loopback["ports"]
    different = {"command", "environment", "ports", "volumes"}
    assert {name: loopback[name] for name in loopback.keys() - different} == {
        name: tls[name] for name in tls.keys() - different
    }


def test_image_installs_extras_and_files_that_exist() -> None:
    """The files are among those that the build may read."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (extras,) = re.findall(r'"\.\[(.+)\]"', CONTAINERFILE)
    assert set(extras.split(",")) <= project["optional-dependencies"].keys()
    sources = re.findall(r"^COPY (?!--)(.+) \S+$", CONTAINERFILE, re.MULTILINE)
    allowed = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for name in " ".join(sources).split():
        assert (ROOT / name).exists()
        assert f"!{name}" in allowed
