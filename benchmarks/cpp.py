"""Programs in C++, compiled when they are needed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Final

from benchmarks.run import LeftOut, Run

_HERE: Final = Path(__file__).parent
_COMPILED: Final = ("-std=c++17", "-O2")


def build(run: Run, name: str) -> Path:
    """Return the program that `NAME.cc` in this folder is compiled to.

    Raises LeftOut without a compiler or gRPC's library for C++.
    """
    program = run.folder / name
    if program.exists():
        return program
    asked = ["pkg-config", "--cflags", "--libs", "grpc++"]
    flags = None
    if all(map(shutil.which, ("pkg-config", "g++"))):
        flags = subprocess.run(asked, check=False, capture_output=True, text=True)
    if flags is None or flags.returncode != 0:
        raise LeftOut("gRPC for C++ is not installed (Debian: g++ pkg-config libgrpc++-dev)")
    source = str(_HERE / f"{name}.cc")
    built = ["g++", *_COMPILED, source, "-o", str(program), *flags.stdout.split()]
    subprocess.run(built, check=True)
    return program
