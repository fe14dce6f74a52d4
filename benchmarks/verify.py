"""Verify's rate beside an empty grpcio handler's, and what restrictions and limits cost of it.

Run by `make bench`. It needs h2load (Debian: nghttp2-client), which is a C client: a Python one
would measure itself. Each server in turn has one core, h2load another; the sides take turns, and
the median of the rounds counts.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
import grpc.aio

import keyauthority
from keyauthority.v1 import key_authority_service_pb2 as pb

SERVER_CORE: Final = 0
LOAD_CORE: Final = 1
CONNECTIONS: Final = 4
STREAMS: Final = 16  # concurrent calls on each connection
_RATE: Final = re.compile(r"([0-9.]+) req/s")
_DONE: Final = re.compile(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout")
_EMPTY: Final = "empty handler on grpcio"
_PLAIN: Final = "Verify on the native front, metered"
_VERIFY: Final = "/keyauthority.v1.KeyAuthorityService/Verify"


def main() -> None:
    """Measure, and print the medians with their ratios."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--calls", type=int, default=20_000, help="calls a round")
    options.add_argument("--empty-handler", action="store_true", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.empty_handler:
        asyncio.run(_serve_empty_handler())
        return
    if shutil.which("h2load") is None:
        sys.exit("h2load is not installed: on Debian it is in the package nghttp2-client")
    rates = _measure(given.rounds, given.calls)
    medians = {name: statistics.median(measured) for name, measured in rates.items()}
    print(f"{'':44}{'calls/s':>10}{'to empty':>10}{'to plain':>10}")
    for name, median in medians.items():
        to_empty, to_plain = median / medians[_EMPTY], median / medians[_PLAIN]
        print(f"{name:44}{median:10.0f}{to_empty:10.2f}{to_plain:10.2f}")


def _measure(rounds: int, calls: int) -> dict[str, list[float]]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        native, native_key = stack.enter_context(_authority(folder / "native", "native"))
        grpcio, grpcio_key = stack.enter_context(_authority(folder / "grpcio", "grpcio"))
        bodies = _requests(native, native_key)
        sides = {name: (native, native_key, body) for name, body in bodies.items()}
        sides["Verify on grpcio"] = (grpcio, grpcio_key, _requests(grpcio, grpcio_key)[_PLAIN])
        empty = stack.enter_context(_empty_handler())
        sides[_EMPTY] = (empty, native_key, bodies[_PLAIN])
        rates: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(rounds):
            for name, (address, operator_key, body) in sides.items():
                rates[name].append(load(address, operator_key, body, calls, folder))
        return rates


def _requests(address: str, operator_key: str) -> dict[str, bytes]:
    """Return requests for a plain key, for a key with restrictions, and for keys with limits."""
    limited = keyauthority.RateLimit(1_000_000_000, timedelta(days=1))
    restrictions = keyauthority.Restrictions(allowed_ips=("10.0.0.0/8", "2001:db8::/32"))
    asked = {"permissions": ["orders:read"], "client_ip": "10.1.2.3"}
    with keyauthority.Client(address, operator_key=operator_key) as authority:
        project = authority.create_project("bench")
        create = partial(authority.create_key, project.project_id, mode="live")
        plain = create(kind="secret")
        restricted = partial(
            create, kind="restricted", permissions=["orders:read"], restrictions=restrictions
        )
        strict = restricted()
        rated = create(kind="secret", rate_limit=limited)
        both = restricted(
            rate_limit=limited,
            quota=keyauthority.Quota(1_000_000_000, keyauthority.QuotaPeriod.MONTH),
        )
    return {
        _PLAIN: body_of(plain),
        "  permission and address checked": body_of(strict, **asked),
        "  rate limit": body_of(rated),
        "  all that, and a quota": body_of(both, **asked),
    }


def body_of(created: keyauthority.CreatedKey, **asked: Any) -> bytes:
    """Return the request that verifies a key."""
    return pb.VerifyRequest(secret_key=created.secret_key, **asked).SerializeToString()


def load(address: str, operator_key: str, body: bytes, calls: int, folder: Path) -> float:
    """Make calls of Verify as fast as the server answers; return their rate a second."""
    framed = folder / "request.bin"
    framed.write_bytes(b"\0" + len(body).to_bytes(4) + body)
    command = [
        "taskset", "-c", str(LOAD_CORE), "h2load", "-n", str(calls), "-c", str(CONNECTIONS),
        "-m", str(STREAMS), "-t", "1", "-d", str(framed), "-H", "content-type: application/grpc",
        "-H", "te: trailers", "-H", f"x-auth-token: {operator_key}", f"http://{address}{_VERIFY}",
    ]  # fmt: skip
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    done, rate = _DONE.search(output), _RATE.search(output)
    if not (done and rate) or int(done[1]) != calls:
        sys.exit(f"h2load did not succeed:\n{output}")
    return float(rate[1])


@contextmanager
def _authority(data: Path, transport: str) -> Iterator[tuple[str, str]]:
    command = [sys.executable, "-m", "keyauthority_server", "serve", "--data", str(data)]
    command += ["--listen", "127.0.0.1:0", "--transport", transport, "--log-level", "warning"]
    with _pinned(command) as line:
        yield line.rpartition(" ")[2], (data / "operator.key").read_text().strip()


@contextmanager
def _empty_handler() -> Iterator[str]:
    with _pinned([sys.executable, str(Path(__file__)), "--empty-handler"]) as line:
        yield line


@contextmanager
def _pinned(command: list[str]) -> Iterator[str]:
    """Run a server on its core; give the first line that it prints, stripped."""
    pinned = ["taskset", "-c", str(SERVER_CORE), *command]
    with subprocess.Popen(pinned, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield server.stdout.readline().strip()
        finally:
            server.terminate()


async def _serve_empty_handler() -> None:
    async def answer(body: bytes, _: object) -> bytes:
        return b""

    server = grpc.aio.server()
    service, method = _VERIFY.strip("/").split("/")
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(answer)
    server.add_registered_method_handlers(service, {method: handler})
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    main()
