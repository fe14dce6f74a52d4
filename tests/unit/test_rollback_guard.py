"""The rollback guard on SQLite: noting the head needs no free descriptor."""

from __future__ import annotations

import os
import resource
import runpy
from pathlib import Path

from keyauthority.model import LogId, Revision
from keyauthority_server.store.sqlite import rollback_guard
from keyauthority_server.store.sqlite.rollback_guard import (
    head_path,
    read_saved_head,
    save_head,
)
from keyauthority_server.store.types import LogHead

LOG_ID = LogId("0a1b2c3d-0000-4000-8000-000000000000")


def test_head_is_noted_without_a_free_descriptor(tmp_path: Path) -> None:
    """Repeatedly: its reserved descriptor is reacquired each time."""
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    assert read_saved_head(tmp_path / "database") is None
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(os_descriptors()) + 8, limits[1]))
        while True:
            try:
                taken.append(os.open(os.devnull, os.O_RDONLY))
            except OSError:
                break
        for number in (1, 2, 3):
            save_head(head_path(tmp_path / "database"), LogHead(LOG_ID, Revision(number)))
    finally:
        for one in taken:
            os.close(one)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert LogHead(LOG_ID, Revision(3)) == read_saved_head(tmp_path / "database")


def test_import_takes_no_descriptor() -> None:
    """A process that opens no database keeps none; the first that it opens reserves one."""
    before = os_descriptors()
    runpy.run_path(rollback_guard.__file__)
    assert before == os_descriptors()


def os_descriptors() -> list[int]:
    """The descriptors that are open."""
    return [int(one.name) for one in Path("/proc/self/fd").iterdir()]
