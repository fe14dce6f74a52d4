"""`keyauthority keys import` against a server of a module's own, and its files."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import keyauthority
from tests.service.imports import own_server
from tests.service.processes import Command, ServerProcess


@pytest.fixture(scope="module")
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerProcess]:
    """A server of this module's own."""
    yield from own_server("sqlite", request, tmp_path_factory)


@pytest.fixture
def project_id(client: keyauthority.Client) -> str:
    """A project of the test's own."""
    return client.create_project("moved").project_id


@pytest.fixture
def command(command: Command) -> Command:
    """Runs `keyauthority keys import` as the first operator."""
    return partial(command, "keys", "import")


def table(path: Path, rows: Sequence[Mapping[str, Any]]) -> str:
    """Write rows as CSV with a header; return the path."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)
