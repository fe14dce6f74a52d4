"""A server whose one method does nothing: the cost of gRPC itself in Python.

`python -m benchmarks.empty_server KIND` prints its address and serves until it is ended. KIND is
`native` (the front that Key Authority serves loopback with), `aio` or `threads` (grpcio's two).
"""

from __future__ import annotations

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import grpc
import grpc.aio
from pygrpc_native import EVENT_CALL, NativeGrpcFront

SERVICE: Final = "keyauthority.v1.KeyAuthorityService"
METHOD: Final = "Verify"
LOCAL: Final = "127.0.0.1:0"
BATCH: Final = 64
THREADS: Final = 8


def main() -> None:
    """Serve."""
    {"native": _native, "aio": lambda: asyncio.run(_aio()), "threads": _threads}[sys.argv[1]]()


def _native() -> None:
    front = NativeGrpcFront(LOCAL, [(f"/{SERVICE}/{METHOD}", False)], call_details=True)
    front.start()
    _tell(front.bound_port)
    while (events := front.recv_batch_details(BATCH)) is not None:
        for event in events:
            if event[0] == EVENT_CALL:
                front.respond(event[1], b"")


async def _aio() -> None:
    async def answer(_: bytes, __: object) -> bytes:
        return b""

    server = grpc.aio.server()
    server.add_registered_method_handlers(
        SERVICE, {METHOD: grpc.unary_unary_rpc_method_handler(answer)}
    )
    port = server.add_insecure_port(LOCAL)
    await server.start()
    _tell(port)
    await server.wait_for_termination()


def _threads() -> None:
    def answer(_: bytes, __: object) -> bytes:
        return b""

    server = grpc.server(ThreadPoolExecutor(THREADS))
    server.add_registered_method_handlers(
        SERVICE, {METHOD: grpc.unary_unary_rpc_method_handler(answer)}
    )
    port = server.add_insecure_port(LOCAL)
    server.start()
    _tell(port)
    threading.Event().wait()


def _tell(port: int) -> None:
    print(f"127.0.0.1:{port}", flush=True)


if __name__ == "__main__":
    main()
