"""`make bench` in its shortest form without h2load, and the load generator."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from threading import Event

import pytest

from benchmarks.__main__ import main
from benchmarks.authority import SERVICE, Authority, serving
from benchmarks.cpp import build
from benchmarks.databases import postgres
from benchmarks.h2load import LoadFailed
from benchmarks.load_generator import Traffic, TrafficLoad, write_bodies
from benchmarks.neighbours import empty_python
from benchmarks.questions import VALID
from benchmarks.run import LeftOut, Run
from benchmarks.steady_changes import ChangesFailed, UnderChanges, changing, changing_keys
from keyauthority.v1 import key_authority_service_pb2 as pb

SHORT = ("--rounds", "1", "--seconds", "0.02", "--cases", "5", "--keys", "30")


@pytest.mark.timeout(300)
def test_bench_without_h2load_measures_the_rest_and_lists_omissions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All measurements that need no h2load run; each omission is reported."""
    taskset = shutil.which("taskset")
    assert taskset is not None
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "taskset").symlink_to(taskset)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    wanted = ["traffic", "verify", "verifier", "keys", "python_calls", "refused"]
    only = [text for name in wanted for text in ("--only", name)]
    main([*SHORT, "--out", str(tmp_path), *only])
    parts = json.loads((tmp_path / "results.json").read_text())["parts"]
    assert wanted == list(parts)
    output = capsys.readouterr().out
    assert "traffic … left out: gRPC for C++ is not installed" in output
    assert "verify … left out: h2load is not installed" in output
    assert "Left out: h2load is not installed" in (tmp_path / "results.md").read_text()
    measured = [figure for name in wanted[2:] for figure in parts[name]["figures"]]
    assert measured
    assert all(figure["rounds"] and min(figure["rounds"]) >= 0 for figure in measured)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Return a run with the shortest turns."""
    folder = tmp_path_factory.mktemp("benchmarks")
    return Run(folder, folder / "stores", rounds=1, seconds=0.1, keys=(30,), cases=5, watchers=())


@pytest.fixture(scope="module")
def compiled(run: Run) -> Run:
    """Return a run whose folder has the load generator."""
    try:
        build(run, "load_generator")
    except LeftOut as reason:
        pytest.skip(str(reason))
    return run


@pytest.mark.xdist_group("load generator")  # compiled once
def test_load_generator_counts_wrong_answers(compiled: Run) -> None:
    """Another status, another answer and a missing item are each counted."""
    run, bodies = compiled, write_bodies(compiled.folder / "few", [b"a", b"bc"])
    with empty_python(run, "native") as target:
        answered = Traffic(target.address, target.path, bodies)
        load = TrafficLoad(run, answered, run.seconds)
        assert load() > 0
        assert load.rounds[0].p50 <= load.rounds[0].p99
        for wrong, told in (
            (replace(answered, prefix=VALID), "^0 of [0-9]+ calls failed and [1-9]"),
            (replace(answered, prefix=VALID, items=1), "^0 of [0-9]+ calls failed and [1-9]"),
            (
                replace(answered, path="/keyauthority.v1.KeyAuthorityService/None"),
                "^[1-9][0-9]* of [0-9]+ calls failed",
            ),
        ):
            with pytest.raises(LoadFailed, match=told):
                TrafficLoad(run, wrong, run.seconds)()


@pytest.mark.xdist_group("load generator")
def test_load_generator_verifies_batches_over_tls(compiled: Run) -> None:
    """Each verdict of a batch counts, and the server must present its certificate."""
    with serving(compiled, "batch", tls=True) as authority:
        created = [authority.create() for _ in range(2)]
        items = [pb.VerifyRequest(secret_key=one.secret_key.reveal()) for one in created]
        batches = [pb.BatchVerifyRequest(requests=items), pb.BatchVerifyRequest(requests=items[:1])]
        assert _batches(compiled, authority, batches[:1])() > 0
        with pytest.raises(LoadFailed, match=r"^0 of [0-9]+ calls failed and [1-9]"):
            _batches(compiled, authority, batches)()


def _batches(
    run: Run, authority: Authority, batches: Sequence[pb.BatchVerifyRequest]
) -> TrafficLoad:
    """Return a load that takes only batches of two for right."""
    bodies = [batch.SerializeToString() for batch in batches]
    traffic = Traffic(
        authority.server.address,
        f"{SERVICE}/BatchVerify",
        write_bodies(run.folder / f"batches-{len(bodies)}", bodies),
        prefix=VALID,
        items=2,
        metadata=f"x-auth-token={authority.server.operator_key}",
        ca=authority.ca,
    )
    return TrafficLoad(run, traffic, run.seconds)


def test_changes_beside_a_load_keep_their_rate_and_report_failures(run: Run) -> None:
    """Without the report a server that refuses changes would look fast."""
    with serving(run, "changes") as authority, changing_keys(run, authority) as changer:
        side = UnderChanges(lambda: Event().wait(0.5) or 1.0, changer, 20)
        with pytest.raises(LoadFailed), changer.beside(20):
            raise LoadFailed("a load that fails ends its stretch of changes")
        assert 1.0 == side()
        assert 20 * 0.5 < side.answered[0] <= 20 * 1.5
        with (
            changing(run, "puts", authority.server.address) as refused,
            pytest.raises(ChangesFailed, match="UNIMPLEMENTED"),
            refused.beside(20),
        ):
            Event().wait(0.1)


@pytest.mark.prove
@pytest.mark.xdist_group("load generator")
@pytest.mark.parametrize("engine", ["sqlite", "postgres"])
def test_changes_beside_a_saturating_load_are_answered(compiled: Run, engine: str) -> None:
    """However busy Verify keeps the core of server and database, changes get their turn."""
    run = replace(compiled, seconds=3)
    with ExitStack() as stack:
        flags: tuple[str, ...] = ()
        if engine == "postgres":
            flags = ("--store", stack.enter_context(postgres(run)).create())
            flags += ("--max-staleness", "10s")
        authority = stack.enter_context(serving(run, f"saturated-{engine}", *flags))
        tokens = [authority.create().secret_key.reveal() for _ in range(500)]
        bodies = (pb.VerifyRequest(secret_key=token).SerializeToString() for token in tokens)
        traffic = Traffic(
            authority.server.address,
            f"{SERVICE}/Verify",
            write_bodies(run.folder / f"saturated-{engine}-bodies", bodies),
            prefix=VALID,
            metadata=f"x-auth-token={authority.server.operator_key}",
        )
        changer = stack.enter_context(changing_keys(run, authority))
        side = UnderChanges(TrafficLoad(run, traffic, run.seconds), changer, 50)
        for _ in range(3):
            side()
        assert min(side.answered[1:]) > 50 * 0.75
