"""h2load makes one gRPC call again and again, as fast as the server answers.

It is a C client; a Python one would measure itself. It knows nothing of gRPC's statuses, so a load
counts only if every call brought as many bytes of message as the right answer has: a call that
fails brings none.
"""

from __future__ import annotations

import math
import re
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

from benchmarks.figures import quantile
from benchmarks.run import LeftOut, Run

CONNECTIONS: Final = 4
STREAMS: Final = 16  # calls at once on each connection
FIRST_CALLS: Final = 20  # per caller; the later rounds use the measured rate
FIRST_RATE: Final = 1_000.0  # requests a second, until a round has measured it
FRAME: Final = 5  # bytes before each message
TOLERANCE: Final = 0.9  # of the answer's length: the digits of a revision or a limit may be fewer

_RATE: Final = re.compile(r"([0-9.]+) req/s")
_DONE: Final = re.compile(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout")
_DATA: Final = re.compile(r"\((\d+)\) data")


def require() -> None:
    """Raise LeftOut if h2load is not installed."""
    if shutil.which("h2load") is None:
        raise LeftOut("h2load is not installed (Debian: nghttp2-client)")


class LoadFailed(Exception):
    """A call failed or returned a wrong response; the message is the output of h2load."""


class Target(NamedTuple):
    """A call, and the length of its right answer."""

    address: str
    """`host:port`, behind `https://` if it speaks TLS."""
    path: str
    body: bytes
    answer: int
    """Bytes of the answer's message."""
    headers: tuple[str, ...] = ()


class Loaded(NamedTuple):
    """The result of a load."""

    calls: int
    rate: float
    """Calls a second."""
    core_share: float
    """The share of a core used by h2load itself."""
    latencies: tuple[float, ...]
    """Seconds of each call, if they were asked for."""


class Load:
    """A load of one target, sized so that it takes the time of a round."""

    def __init__(
        self, run: Run, target: Target, *, connections: int = CONNECTIONS, streams: int = STREAMS
    ) -> None:
        """Size the first round by a guess, later rounds by the previous rate."""
        self._run = run
        self._target = target
        self._callers = (connections, streams)
        self._rate: float | None = None

    def __call__(self) -> float:
        """Return the calls a second of one round."""
        return self.measure().rate

    def measure(self, *cores: int, timed: bool = False) -> Loaded:
        """Make the calls of one round, from the load's core unless others are named."""
        at_once = math.prod(self._callers)
        calls = FIRST_CALLS * at_once
        if self._rate is not None:
            calls = max(int(self._rate * self._run.seconds), at_once)
        loaded = self._make(calls, cores or (self._run.load_core,), timed=timed)
        self._rate = loaded.rate
        return loaded

    def _make(self, calls: int, cores: tuple[int, ...], *, timed: bool) -> Loaded:
        with tempfile.TemporaryDirectory(dir=self._run.folder) as folder:
            command = [*self._run.pinned(*cores), *self._command(Path(folder), calls, timed=timed)]
            before, begun = _children_seconds(), time.perf_counter()
            done = subprocess.run(command, check=False, capture_output=True, text=True)
            seconds = time.perf_counter() - begun
            taken = _children_seconds() - before
            rate = rate_of(done.stdout, calls, self._target.answer)
            latencies = _latencies(Path(folder) / "log") if timed else ()
        return Loaded(calls, rate, taken / seconds, latencies)

    def _command(self, folder: Path, calls: int, *, timed: bool) -> list[str]:
        target = self._target
        request = folder / "request"
        request.write_bytes(b"\0" + len(target.body).to_bytes(4) + target.body)
        connections, streams = self._callers
        scheme = "" if "://" in target.address else "http://"
        arguments = ["-n", str(calls), "-c", str(connections), "-m", str(streams), "-t", "1"]
        arguments += ["-d", str(request), *(("--log-file", str(folder / "log")) if timed else ())]
        for header in ("content-type: application/grpc", "te: trailers", *target.headers):
            arguments += ["-H", header]
        return ["h2load", *arguments, f"{scheme}{target.address}{target.path}"]


class Http1Load(Load):
    """A load over HTTP/1.1, with one connection for each caller."""

    def __init__(self, run: Run, target: Target, content_type: str) -> None:
        super().__init__(run, target)
        self._type = content_type

    def _command(self, folder: Path, calls: int, *, timed: bool) -> list[str]:
        request = folder / "request"
        request.write_bytes(self._target.body)
        arguments = ["--h1", "-n", str(calls), "-c", str(math.prod(self._callers)), "-t", "1"]
        arguments += ["-d", str(request), *(("--log-file", str(folder / "log")) if timed else ())]
        for header in (f"content-type: {self._type}", *self._target.headers):
            arguments += ["-H", header]
        return ["h2load", *arguments, f"http://{self._target.address}{self._target.path}"]


class OneByOne:
    """HTTP/1.1 requests, one after another on one connection."""

    def __init__(self, run: Run, url: str, headers: Sequence[str]) -> None:
        self._run = run
        self._url = url
        self._headers = [text for header in headers for text in ("-H", header)]
        self._rate = FIRST_RATE
        self.p99s: list[float] = []
        """Milliseconds, of each round."""

    def __call__(self) -> float:
        """Return the median of one round, in milliseconds. Raises LoadFailed unless all are 2xx."""
        calls = max(int(self._rate * self._run.seconds), FIRST_CALLS)
        with tempfile.TemporaryDirectory(dir=self._run.folder) as folder:
            log = Path(folder) / "log"
            options = ["--h1", "-n", str(calls), "-c1", "-m1", "-t1", "--log-file", str(log)]
            command = [*self._run.pinned(self._run.load_core), "h2load", *options]
            done = subprocess.run(
                [*command, *self._headers, self._url], check=False, capture_output=True, text=True
            )
            if f"status codes: {calls} 2xx" not in done.stdout:
                raise LoadFailed(done.stdout + done.stderr)
            latencies = [1e3 * seconds for seconds in _latencies(log)]
        self._rate = 1e3 / statistics.fmean(latencies)
        self.p99s.append(quantile(latencies, 0.99))
        return statistics.median(latencies)


def rate_of(output: str, calls: int, answer: int) -> float:
    """Return the calls per second of h2load; raises LoadFailed unless all responses are right."""
    done, rate, data = _DONE.search(output), _RATE.search(output), _DATA.search(output)
    if not (done and rate and data) or int(done[1]) != calls:
        raise LoadFailed(output)
    if int(data[1]) < calls * (FRAME + answer * TOLERANCE):
        raise LoadFailed(f"not every call brought its {answer} bytes:\n{output}")
    return float(rate[1])


def _latencies(log: Path) -> tuple[float, ...]:
    """Return the third column: microseconds of each call."""
    lines = log.read_text(encoding="ascii").splitlines()
    return tuple(int(line.split("\t")[2]) / 1e6 for line in lines)


def _children_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
