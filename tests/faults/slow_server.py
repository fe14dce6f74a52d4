"""A server that can serve few calls a second, for the tests of overload: `slow_server TRANSPORT`.

Its Verify keeps the event loop busy for `VERIFY_SECONDS` and says it was called; RevokeKey answers
at once. It prints its address, and ends when its input does.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from typing import Final

from keyauthority_server import config
from keyauthority_server.rpc_types import Call, UnaryMethod
from keyauthority_server.transport import Server, loop_factory

VERIFY_SECONDS: Final = 0.002


async def verify(_: bytes, __: Call) -> bytes:
    """Keep everybody waiting."""
    time.sleep(VERIFY_SECONDS)  # noqa: ASYNC251 - as a verification's own work does
    return b""


async def revoke(_: bytes, __: Call) -> bytes:
    """Answer at once."""
    return b""


async def serve(settings: config.Config) -> None:
    """Serve until the input ends."""
    methods = {"Verify": UnaryMethod(verify), "RevokeKey": UnaryMethod(revoke, urgent=True)}
    server = Server(settings, {"keyauthority.v1.KeyAuthorityService": methods})
    await server.start()
    print(settings.listen, flush=True)  # noqa: T201 - the command's output
    await asyncio.to_thread(sys.stdin.read)
    await server.drain(0)


def main(transport: str) -> None:
    """Find a port and serve on it."""
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as held:
        listen = f"127.0.0.1:{held.getsockname()[1]}"
        settings = config.load({"listen": listen, "transport": transport}, {})
    with asyncio.Runner(loop_factory=loop_factory(settings)) as runner:
        runner.run(serve(settings))


if __name__ == "__main__":
    main(*sys.argv[1:])
