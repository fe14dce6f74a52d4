"""Brings the disk that can be watched and can fail into each process of a server.

Python imports this by itself where this folder is in PYTHONPATH; `disk.environment` says so.
"""

from __future__ import annotations

import os
from pathlib import Path

from keyauthority_server.store import sqlite_connection, sqlite_writer
from tests.faults.disk import (
    FAILING,
    FORGIVING,
    RECORDING,
    SYNCHRONOUS,
    failing,
    recording,
    vfs,
)

if SYNCHRONOUS in os.environ:  # a control: commits that wait for no disk
    durable = f"PRAGMA synchronous = {os.environ[SYNCHRONOUS]}"
    sqlite_connection._DURABLE = durable  # type: ignore[misc]  # Final, but for this
if RECORDING in os.environ:
    recorder = recording.Recorder(Path(os.environ[RECORDING]))
    recorder.watch_heads()
    vfs.install(recorder)
if FAILING in os.environ:
    vfs.install(failing.Failing(Path(os.environ[FAILING])))
if FORGIVING in os.environ:  # a control: a process that goes on after a failure
    sqlite_writer.Writer._break = lambda *_: None  # type: ignore[method-assign]
