"""One nursery for all tests of a process: the disk and the clock of its servers can be altered."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.altered import environment
from tests.faults.clocks import shift
from tests.faults.nursery import Nursery, nursery


@pytest.fixture(scope="session")
def order_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where orders to the disk lie."""
    return tmp_path_factory.mktemp("orders") / "order"


@pytest.fixture(scope="session")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By how much the wall clock is off; a test that shifts it puts it right again."""
    path = tmp_path_factory.mktemp("clock") / "clock"
    shift(path, 0)
    return path


@pytest.fixture(scope="session")
def nurse(order_path: Path, clock: Path) -> Iterator[Nursery]:
    """What starts servers; they are the test's to end."""
    with nursery(environment(failing=order_path, clock=clock)) as one:
        yield one
