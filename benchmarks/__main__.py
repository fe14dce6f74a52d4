"""Runs the benchmarks; writes `results.json`, `.md` and `.svg`, and `traffic.svg`.

`make bench` runs it; `make bench ARGS="--only verify"` measures one part again and keeps the
results of the others. The machine should be idle otherwise.
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
    gateway,
    http,
    imports,
    keys,
    libraries,
    python_calls,
    refused,
    scan,
    tls,
    tracing,
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
    "tracing": tracing.measure,
    "batch": batch.measure,
    "changes": changes.measure,
    "verifier": verifier.measure,
    "gateway": gateway.measure,
    "http": http.measure,
    "libraries": libraries.measure,
    "keys": keys.measure,
    "imports": imports.measure,
    "workers": workers.measure,
    "connections": connections.measure,
    "tls": tls.measure,
    "watchers": watchers.measure,
    "freshness": freshness.measure,
    "python_calls": python_calls.measure,
    "refused": refused.measure,
    "scan": scan.measure,
}
"""Parts in the order of the report."""
HERE: Final = Path(__file__).parent
ROUNDS: Final = 7
SECONDS: Final = 0.5  # short, since the speed of a shared machine varies by the second
KEYS: Final = (1_000, 1_000_000)
CASES: Final = 500
WATCHERS: Final = (0, 10, 100, 1_000)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure the selected parts and write the report."""
    options = _parser().parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    previous = options.out / "results.json"
    stored: dict[str, Any] = (
        json.loads(previous.read_text()) if previous.exists() else {"parts": {}}
    )
    stored |= {"machine": machine.machine(), "versions": machine.versions()}
    parts: dict[str, Part] = {name: part_from(part) for name, part in stored["parts"].items()}
    for name in options.only or PARTS:
        begun = time.monotonic()
        print(f"{name} …", end=" ", flush=True)
        with tempfile.TemporaryDirectory(prefix="keyauthority-bench-") as folder:
            try:
                parts[name] = PARTS[name](_run(options, Path(folder)))
            except LeftOut as reason:
                print(f"left out: {reason}")
                parts.setdefault(name, Part(name, "", left_out=[str(reason)]))
                continue
        parts[name].commit, parts[name].taken = machine.commit(), machine.now()
        print(f"{time.monotonic() - begun:.0f} s")
    parts = {name: parts[name] for name in PARTS if name in parts}
    _write(options.out, stored, parts)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "--only", action="append", choices=PARTS, help="part to measure; repeatable (default: all)"
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="duration of one measurement"
    )
    parser.add_argument(
        "--cases", type=int, default=CASES, help="number of changes timed individually"
    )
    parser.add_argument(
        "--keys", type=int, nargs="+", default=KEYS, metavar="N",
        help="numbers of keys to compare; 10 million take 12 GB, and some 40 minutes to make",
    )  # fmt: skip
    parser.add_argument("--watchers", type=int, nargs="+", default=WATCHERS, metavar="N")
    parser.add_argument("--megabytes", type=int, default=Run.megabytes, help="tree to scan")
    parser.add_argument("--commits", type=int, default=Run.commits, help="history to scan")
    parser.add_argument(
        "--stores", type=Path, metavar="FOLDER",
        help="folder to reuse stores of many keys from",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=HERE, help="folder for the results")
    return parser


def _run(options: argparse.Namespace, folder: Path) -> Run:
    return Run(
        folder=folder,
        stores=options.stores or folder / "stores",
        rounds=options.rounds,
        seconds=options.seconds,
        keys=tuple(options.keys),
        cases=options.cases,
        watchers=tuple(options.watchers),
        megabytes=options.megabytes,
        commits=options.commits,
    )


def _write(out: Path, stored: Mapping[str, Any], parts: Mapping[str, Part]) -> None:
    results = {**stored, "parts": {name: part.as_json() for name, part in parts.items()}}
    (out / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    table = report.markdown(parts, stored["machine"], stored["versions"])
    (out / "results.md").write_text(table, encoding="utf-8")
    (out / "results.svg").write_text(plot.svg(parts), encoding="utf-8")
    if "traffic" in parts:
        drawing = plot.traffic_svg(parts["traffic"])
        (out / "traffic.svg").write_text(drawing, encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    main()
