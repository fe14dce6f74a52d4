"""Measures what Key Authority costs; writes `results.json`, `.md` and `.svg`, and `traffic.svg`.

`make bench` runs it; `make bench ARGS="--only verify"` measures one part anew and leaves the others
as they are. Nothing else should run on the machine meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks import machine, plot, report
from benchmarks.figures import Part, part_from
from benchmarks.parts import (
    batch,
    changes,
    connections,
    features,
    freshness,
    keys,
    libraries,
    python_calls,
    traffic,
    verifier,
    verify,
    watchers,
    workers,
)
from benchmarks.run import LeftOut, Run

PARTS: Final[dict[str, Callable[[Run], Part]]] = {
    "traffic": traffic.measure,
    "verify": verify.measure,
    "features": features.measure,
    "batch": batch.measure,
    "changes": changes.measure,
    "verifier": verifier.measure,
    "libraries": libraries.measure,
    "keys": keys.measure,
    "workers": workers.measure,
    "connections": connections.measure,
    "watchers": watchers.measure,
    "freshness": freshness.measure,
    "python_calls": python_calls.measure,
}
"""In the order of the report."""
HERE: Final = Path(__file__).parent
ROUNDS: Final = 7
SECONDS: Final = 0.5  # short and many: a machine that others share changes its speed by the second
KEYS: Final = (1_000, 1_000_000)
CASES: Final = 500
WATCHERS: Final = (0, 10, 100, 1_000)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the parts that are wanted, and write the report."""
    given = _options().parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    kept = given.out / "results.json"
    stored: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {"parts": {}}
    stored |= {"machine": machine.machine(), "versions": machine.versions()}
    parts: dict[str, Part] = {name: part_from(one) for name, one in stored["parts"].items()}
    for name in given.only or PARTS:
        begun = time.monotonic()
        print(f"{name} …", end=" ", flush=True)
        with tempfile.TemporaryDirectory(prefix="keyauthority-bench-") as folder:
            try:
                parts[name] = PARTS[name](_run(given, Path(folder)))
            except LeftOut as reason:
                print(f"left out: {reason}")
                parts.setdefault(name, Part(name, "", left_out=[str(reason)]))
                continue
        parts[name].commit, parts[name].taken = machine.commit(), machine.now()
        print(f"{time.monotonic() - begun:.0f} s")
    parts = {name: parts[name] for name in PARTS if name in parts}
    _write(given.out, stored, parts)


def _options() -> argparse.ArgumentParser:
    options = argparse.ArgumentParser(prog="make bench", description=__doc__)
    options.add_argument("--only", action="append", choices=PARTS, help="may be given repeatedly")
    options.add_argument("--rounds", type=int, default=ROUNDS)
    options.add_argument("--seconds", type=float, default=SECONDS, help="of a side in a round")
    options.add_argument("--cases", type=int, default=CASES, help="changes timed one by one")
    options.add_argument(
        "--keys", type=int, nargs="+", default=KEYS, metavar="N",
        help="numbers of keys to compare; 10 million take 12 GB, and some 40 minutes to make",
    )  # fmt: skip
    options.add_argument("--watchers", type=int, nargs="+", default=WATCHERS, metavar="N")
    options.add_argument(
        "--stores", type=Path, metavar="FOLDER",
        help="keep the stores of many keys here, and find them here",
    )  # fmt: skip
    options.add_argument("--out", type=Path, default=HERE, help="where the results are")
    return options


def _run(given: argparse.Namespace, folder: Path) -> Run:
    return Run(
        folder=folder,
        stores=given.stores or folder / "stores",
        rounds=given.rounds,
        seconds=given.seconds,
        keys=tuple(given.keys),
        cases=given.cases,
        watchers=tuple(given.watchers),
    )


def _write(out: Path, stored: Mapping[str, Any], parts: Mapping[str, Part]) -> None:
    told = {**stored, "parts": {name: part.as_json() for name, part in parts.items()}}
    (out / "results.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    table = report.markdown(parts, stored["machine"], stored["versions"])
    (out / "results.md").write_text(table, encoding="utf-8")
    (out / "results.svg").write_text(plot.svg(parts), encoding="utf-8")
    if "traffic" in parts:
        drawing = plot.traffic_svg(parts["traffic"])
        (out / "traffic.svg").write_text(drawing, encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    main()
