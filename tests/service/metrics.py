"""Reads the metrics endpoint of a server."""

from __future__ import annotations

import re
import urllib.request

from tests.service.processes import ServerProcess


def metrics_address(server: ServerProcess) -> str:
    """Return the address of the metrics endpoint."""
    match = re.search(r"info metrics address=(\S+)", server.log_text())
    assert match
    return match[1]


def scrape(server: ServerProcess) -> str:
    """Return the text that the metrics endpoint serves now."""
    with urllib.request.urlopen(f"http://{metrics_address(server)}/metrics", timeout=10) as answer:
        return str(answer.read(), "utf-8")


def value(text: str, name: str, *labels: str) -> float:
    """Return the value of the sample that has all of the labels, or 0."""
    for line in text.splitlines():
        if line.startswith(name) and all(label in line for label in labels):
            return float(line.rpartition(" ")[2])
    return 0.0
