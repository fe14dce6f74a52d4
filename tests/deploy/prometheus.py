"""Prometheus and promtool, if this machine has them."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from tests.contract.documents import ROOT
from tests.service.processes import end, wait_until

RULES: Final = ROOT / "deploy" / "prometheus" / "keyauthority.rules.yaml"

PROMETHEUS: Final = shutil.which("prometheus") or ""
PROMTOOL: Final = shutil.which("promtool") or ""
ADDRESS: Final = "127.0.0.9"
"""Its own address: no other process of the tests takes a port of it."""
SCRAPE: Final = "300ms"

needs_prometheus: Final = pytest.mark.skipif(  # in continuous integration it fails instead
    not (PROMETHEUS and PROMTOOL) and "PROMETHEUS_REQUIRED" not in os.environ,
    reason="prometheus is not installed (Debian: apt-get install prometheus)",
)


def groups() -> list[dict[str, Any]]:
    """Return the groups of the rules."""
    found: list[dict[str, Any]] = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return found


def alerts() -> dict[str, dict[str, Any]]:
    """Return all alerts by name."""
    return {rule["alert"]: rule for group in groups() for rule in group["rules"]}


def groups_at_once() -> list[dict[str, Any]]:
    """Return the groups with the shipped expressions, without the time that each must hold."""
    at_once = groups()
    for group in at_once:
        for rule in group["rules"]:
            rule.pop("for", None)
    return at_once


class Prometheus:
    """A running Prometheus."""

    def __init__(self, port: int) -> None:
        self._base = f"http://{ADDRESS}:{port}/api/v1/"

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series of an instant query: each has `metric` and `value`."""
        found: list[dict[str, Any]] = self._get("query", query=expression)["result"]
        return found

    def rules(self) -> list[dict[str, Any]]:
        """Return all rules with their health and state."""
        return [rule for group in self._get("rules")["groups"] for rule in group["rules"]]

    def firing(self) -> set[str]:
        """Return the names of the alerts that fire."""
        return {rule["name"] for rule in self.rules() if rule["state"] == "firing"}

    def is_ready(self, targets: int) -> bool:
        """Return whether it has scraped so many targets and evaluated its rules."""
        try:
            rules, scraped = self.rules(), self.query("up == 1")
        except OSError:  # not listening yet
            return False
        return len(scraped) == targets and all(rule["health"] != "unknown" for rule in rules)

    def _get(self, path: str, **parameters: str) -> Any:
        url = f"{self._base}{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310 - http on loopback
            return json.load(answer)["data"]


@contextmanager
def prometheus(folder: Path, *targets: str) -> Iterator[Prometheus]:
    """Run Prometheus on targets with `groups_at_once`, and wait until it has data of each."""
    folder.mkdir()
    rules = {"groups": groups_at_once()}
    (folder / "rules.yaml").write_text(yaml.safe_dump(rules), encoding="utf-8")
    (folder / "prometheus.yaml").write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": SCRAPE, "evaluation_interval": SCRAPE},
                "rule_files": ["rules.yaml"],
                "scrape_configs": [
                    {"job_name": "keyauthority", "static_configs": [{"targets": list(targets)}]}
                ],
            }
        ),
        encoding="utf-8",
    )
    with socket.create_server((ADDRESS, 0)) as unused:
        port = unused.getsockname()[1]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [
                PROMETHEUS,
                f"--config.file={folder / 'prometheus.yaml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address={ADDRESS}:{port}",
            ],
            stderr=log,
        )
    try:
        running = Prometheus(port)
        wait_until(lambda: process.poll() is not None or running.is_ready(len(targets)))
        assert process.returncode is None, (folder / "log").read_text(encoding="utf-8")
        yield running
    finally:
        end(process)


def selectors(expression: str) -> list[str]:
    """Return the selectors of a query: names of metrics with their matchers."""
    return re.findall(r"\b(?:keyauthority|grpc_server|process)_\w+\b(?:\{[^}]*\})?", expression)
