"""Migrations that are killed: `python -m tests.faults.migrating PLACE NUMBER [NUMBER ...]`.

For each number, a child of its own migrates PLACE and kills itself before its statement of that
number. Prints for each whether it got so far: `killed` or `done`. The number 0 kills no child.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from keyauthority_server.store import postgres
from keyauthority_server.store.postgres.rows import PostgresRows
from keyauthority_server.store.sqlite import connection, schema, store


def main(place: str, *numbers: str) -> None:
    """Migrate once for each number."""
    for number in map(int, numbers):
        pid = os.fork()
        if not pid:
            _migrate(place, number)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            print("killed", flush=True)  # noqa: T201 - the command's output
        else:
            assert 0 == os.waitstatus_to_exitcode(status)
            print("done", flush=True)  # noqa: T201 - as above


def _migrate(place: str, number: int) -> NoReturn:
    left = number

    def count(*_: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    code = 1
    try:
        if place.startswith("postgresql:"):
            for name in ("begin", "run", "commit"):
                setattr(PostgresRows, name, _counted(getattr(PostgresRows, name), count))
            postgres.migrate(place)
        else:
            connect = connection.connect

            def traced(*given: Any, **told: Any) -> Any:
                connection = connect(*given, **told)
                connection.set_trace_callback(count)
                return connection

            vars(schema)["connect"] = traced
            store.migrate(Path(place))
        code = 0
    finally:
        os._exit(code)


def _counted(method: Callable[..., Any], count: Callable[[], None]) -> Callable[..., Any]:
    def counted(*given: Any, **told: Any) -> Any:
        count()
        return method(*given, **told)

    return counted


if __name__ == "__main__":
    main(*sys.argv[1:])
