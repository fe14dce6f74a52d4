"""The tests' Chromium, if this machine has one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import pytest
from playwright.sync_api import Browser, sync_playwright

PROGRAM: Final = shutil.which("chromium") or shutil.which("chromium-browser")

needs_chromium: Final = pytest.mark.skipif(  # in continuous integration it fails instead
    PROGRAM is None and "CHROMIUM_REQUIRED" not in os.environ,
    reason="Chromium is not installed (Debian: apt-get install chromium)",
)

_FLAGS: Final = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@contextmanager
def running_browser() -> Iterator[Browser]:
    """Run a browser that keeps pages for Back and Forward, as people's browsers do."""
    assert PROGRAM, "Chromium is required: apt-get install chromium"
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=PROGRAM,
            args=_FLAGS,
            ignore_default_args=["--disable-back-forward-cache"],
            env={**os.environ, "HOME": folder},
        )
        yield browser
        browser.close()
