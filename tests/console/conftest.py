"""One server and one console that the tests of a process share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from keyauthority import Client
from tests.console.people import ConsoleProcess, Person, running_console
from tests.service.forkserver import shared
from tests.service.processes import ServerProcess


@pytest.fixture(scope="session")
def console_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The authority that the shared console shows."""
    running = shared().start(tmp_path_factory.mktemp("console-server") / "data")
    yield running
    running.stop()


@pytest.fixture(scope="session")
def console(
    console_server: ServerProcess, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ConsoleProcess]:
    """The shared console."""
    with running_console(tmp_path_factory.mktemp("console"), console_server) as running:
        yield running


@pytest.fixture(scope="session")
def person(console: ConsoleProcess, console_server: ServerProcess) -> Person:
    """A person with all rights, who has signed in."""
    one = Person(console.url)
    one.sign_in(console_server.operator_key)
    return one


@pytest.fixture(scope="session")
def client(console_server: ServerProcess) -> Iterator[Client]:
    """A client of the same authority."""
    with Client(console_server.address, operator_key=console_server.operator_key) as opened:
        yield opened


@pytest.fixture
def project_id(client: Client) -> str:
    """The id of a project of the test's own."""
    return client.create_project("Shop").project_id
