"""An nginx with a test's configuration, if this machine has one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.ports import listens
from tests.service.processes import wait_until

PROGRAM: Final = shutil.which("nginx", path="/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin")

needs_nginx: Final = pytest.mark.skipif(  # in continuous integration it fails instead
    PROGRAM is None and "PROXIES_REQUIRED" not in os.environ,
    reason="nginx is not installed (Debian: apt-get install nginx)",
)

ADDRESS: Final = "127.0.0.8"
"""Where it listens: no other process of the tests takes a port of this address."""

_AROUND: Final = """
daemon off;
master_process off;
pid {folder}/pid;
error_log {folder}/log info;
events {{}}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
{http}
}}
"""


@contextmanager
def nginx(http: str, port: int) -> Iterator[Path]:
    """Run nginx with the text of an `http` block that listens on a port; give its log."""
    assert PROGRAM is not None, "nginx is not installed"
    with tempfile.TemporaryDirectory(prefix="keyauthority-nginx-") as name:
        folder = Path(name)
        log, config = folder / "log", folder / "nginx.conf"
        config.write_text(_AROUND.format(folder=folder, http=http), encoding="utf-8")
        process = subprocess.Popen(
            [PROGRAM, "-p", name, "-c", str(config), "-e", str(log)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_until(lambda: process.poll() is not None or listens(port, ADDRESS))
            assert process.returncode is None, log.read_text(encoding="utf-8")
            yield log
        finally:
            process.terminate()
            process.wait(20)
