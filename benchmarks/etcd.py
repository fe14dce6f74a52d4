"""etcd on the servers' core, and its messages, which are written by hand: three fields in all."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc

from benchmarks.programs import free_address, running
from benchmarks.run import LeftOut, Run
from tests.service.processes import wait_until

RANGE: Final = "/etcdserverpb.KV/Range"
PUT: Final = "/etcdserverpb.KV/Put"
VALUE: Final = "x" * 100  # bytes, about as long as a Verify's answer
FOUND: Final = b"\x20\x01"  # the end of Range's answer: count = 4, one key
_SECONDS: Final = 30
_AT_ONCE: Final = 256


@contextmanager
def etcd(run: Run) -> Iterator[str]:
    """Give the address of an empty etcd; raises LeftOut if it is not installed."""
    if shutil.which("etcd") is None or shutil.which("etcdctl") is None:
        raise LeftOut("etcd is not installed (Debian: etcd-server etcd-client)")
    address, peer = free_address(), free_address()
    urls = {"client": f"http://{address}", "peer": f"http://{peer}"}
    command = [*run.pinned(), "etcd", "--data-dir", str(run.folder / "etcd"), "--log-level=error"]
    for kind, url in urls.items():
        advertise = "advertise" if kind == "client" else "initial-advertise"
        command += [f"--listen-{kind}-urls", url, f"--{advertise}-{kind}-urls", url]
    command += ["--initial-cluster", f"default={urls['peer']}"]
    environment = os.environ | {"ETCDCTL_API": "3"}
    asked = ["etcdctl", "--endpoints", address, "endpoint", "health"]
    with running(command):

        def is_up() -> bool:
            done = subprocess.run(asked, check=False, capture_output=True, env=environment)
            return done.returncode == 0

        wait_until(is_up)
        yield address


def put_all(address: str, keys: Iterable[str]) -> None:
    """Put keys into etcd, many at once."""
    with grpc.insecure_channel(address) as channel:
        put: Any = channel.unary_unary(PUT)
        calls: list[Any] = []
        for key in keys:
            calls.append(put.future(put_request(key, VALUE), timeout=_SECONDS))
            if len(calls) == _AT_ONCE:
                while calls:
                    calls.pop().result()
        for call in calls:
            call.result()


def put_request(key: str, value: str) -> bytes:
    """Return a PutRequest: key = 1, value = 2, each shorter than 128 bytes."""
    return _text(1, key) + _text(2, value)


def range_request(key: str) -> bytes:
    """Return a RangeRequest: key = 1, serializable = 7, which reads from memory."""
    return _text(1, key) + b"\x38\x01"


def _text(field: int, text: str) -> bytes:
    return bytes([field << 3 | 2, len(text)]) + text.encode("ascii")
