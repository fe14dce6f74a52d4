"""Alters each process of a server as `tests.faults.bitflips` says.

Python imports this by itself where this folder is in PYTHONPATH.
"""

from __future__ import annotations

import gc
import os
from pathlib import Path

from tests.faults.bitflips import (
    CLOCK,
    FAILING,
    FAULTY,
    FORGIVING,
    RECORDING,
    SYNCHRONOUS,
    UNCOLLECTED,
)

if {FAILING, RECORDING, SYNCHRONOUS, FORGIVING} & os.environ.keys():
    from keyauthority_server.store.sqlite import connection, writer
    from tests.faults.disk import failing, recording, vfs

    if SYNCHRONOUS in os.environ:
        durable = f"PRAGMA synchronous = {os.environ[SYNCHRONOUS]}"
        connection._DURABLE = durable  # type: ignore[misc]  # Final, but for this
    if RECORDING in os.environ:
        recorder = recording.Recorder(Path(os.environ[RECORDING]))
        recorder.watch_heads()
        vfs.install(recorder)
    if FAILING in os.environ:
        vfs.install(failing.Failing(Path(os.environ[FAILING])))
    if FORGIVING in os.environ:
        writer.Writer._break = lambda *_: None  # type: ignore[method-assign]

if CLOCK in os.environ:
    from keyauthority import clock
    from tests.faults.clocks import ShiftedClock

    vars(clock)["time"] = ShiftedClock(Path(os.environ[CLOCK]))

if FAULTY in os.environ:
    from keyauthority_server.services.usage import Usage

    del Usage.get

if UNCOLLECTED in os.environ:
    gc.disable()
