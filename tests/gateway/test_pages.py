"""The pages about the gateway: their examples are run, or are part of a configuration that is."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import yaml

from keyauthority.gateway.metrics import Metrics
from tests.contract.documents import ROOT, Reader, blocks, install_commands
from tests.gateway.browser import http
from tests.gateway.conftest import Keys, one_sidecar
from tests.gateway.processes import Gateway
from tests.gateway.proxies import EXAMPLES, Ends, proxy
from tests.gateway.upstream import upstream
from tests.ports import free_port
from tests.service.forkserver import shared

PAGES = [ROOT / "docs" / name for name in ("behind-envoy.md", "behind-nginx.md")]


def test_examples_of_the_gateway_page_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From an operator key with four rights to a denied permission."""
    install_commands(tmp_path)
    server = shared().start(tmp_path / "keyauthority-data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/.venv/bin:{os.environ['PATH']}")
    http_end = f"127.0.0.1:{free_port()}"
    flags = f"keyauthority gateway --grpc 127.0.0.1:{free_port()} --http {http_end}"
    others = {"127.0.0.1:9002": http_end, "keyauthority gateway --": f"{flags} --"}
    try:
        reader = Reader(ROOT / "docs/gateway.md", server.address, others)
        for block in blocks(ROOT / "docs/gateway.md"):
            reader.run(block)
    finally:
        server.stop()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_shown_configuration_is_part_of_a_tested_one(page: Path) -> None:
    """A page shows lines of the examples, which the real programs are started with."""
    lines = [
        "\n".join(_outline(file.read_text(encoding="utf-8")))
        for folder in ("envoy", "nginx", "traefik", "caddy")
        for file in (EXAMPLES / folder).iterdir()
    ]
    shown = blocks(page)
    assert shown
    for block in shown:
        text = "\n".join(_outline(dedent(block.text)))
        assert any(text in example for example in lines), f"{page.name}:{block.line}"


def _outline(text: str) -> Iterator[str]:
    """Yield the lines without their indentation, which the place in a file decides."""
    for line in text.splitlines():
        if line.strip():
            yield line.strip().removeprefix("- ")


def _istio() -> dict[str, Any]:
    """Return Istio's resources, by kind."""
    text = "\n---\n".join(
        file.read_text(encoding="utf-8") for file in (EXAMPLES / "istio").iterdir()
    )
    return {resource["kind"]: resource for resource in yaml.safe_load_all(text)}


def test_istio_resources_name_each_other() -> None:
    """The provider, the routes and the service are those that are defined."""
    found = _istio()
    provider = found["IstioOperator"]["spec"]["meshConfig"]["extensionProviders"][0]
    assert provider["name"] == found["AuthorizationPolicy"]["spec"]["provider"]["name"]
    grpc = provider["envoyExtAuthzGrpc"]
    service = found["Service"]["metadata"]
    assert f"{service['name']}.{service['namespace']}.svc.cluster.local" == grpc["service"]
    assert grpc["port"] in [port["port"] for port in found["Service"]["spec"]["ports"]]
    assert (False, "503") == (grpc["failOpen"], grpc["statusOnError"])
    routes = {route["name"] for route in found["VirtualService"]["spec"]["http"]}
    patched = {
        patch["match"]["routeConfiguration"]["vhost"]["route"]["name"]
        for patch in found["EnvoyFilter"]["spec"]["configPatches"]
    }
    assert routes == {"health"} | patched
    labels = found["Deployment"]["spec"]["template"]["metadata"]["labels"]
    for selector in (
        found["Deployment"]["spec"]["selector"]["matchLabels"],
        found["Service"]["spec"]["selector"],
        found["PeerAuthentication"]["spec"]["selector"]["matchLabels"],
    ):
        assert selector.items() <= labels.items()


@one_sidecar
def test_istio_requirements_hold_in_envoy(sidecar: Gateway, keys: Keys, tmp_path: Path) -> None:
    """Each patch of the EnvoyFilter is one of a route of Envoy; one misspelt name opens nothing."""
    patches = _istio()["EnvoyFilter"]["spec"]["configPatches"]
    by_route = {
        patch["match"]["routeConfiguration"]["vhost"]["route"]["name"]: patch["patch"]["value"]
        for patch in patches
    }

    def with_patches(text: str) -> str:
        config = yaml.safe_load(text)
        (listener,) = config["static_resources"]["listeners"]
        manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
        (host,) = manager["route_config"]["virtual_hosts"]
        health, *_ = host["routes"]
        host["routes"] = [
            health,
            *(
                {"match": {"prefix": f"/{name}"}, "route": {"cluster": "orders"}, **value}
                for name, value in by_route.items()
            ),
        ]
        return str(yaml.safe_dump(config))

    with upstream() as service:
        ends = Ends(sidecar.grpc, sidecar.http, f"127.0.0.1:{service}")
        with proxy("envoy", tmp_path, ends, with_patches) as url:
            headers = {"x-api-key": "" + keys.reader}
            assert 200 == http.get(f"{url}/orders-read", headers=headers).status_code
            assert 403 == http.get(f"{url}/orders-write", headers=headers).status_code


def test_metrics_of_the_page_are_those_served() -> None:
    """The table of the page has every metric."""
    served = set(re.findall(r"# TYPE (\w+)", Metrics().text(None, 0)))
    page = (ROOT / "docs/gateway.md").read_text(encoding="utf-8")
    assert served == set(re.findall(r"^\| `(keyauthority_gateway_\w+)", page, re.MULTILINE))
