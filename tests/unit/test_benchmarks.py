"""The benchmark program: which calls count, and no failed call does."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from benchmarks.figures import Part
from benchmarks.h2load import LoadFailed, rate_of
from benchmarks.load_generator import loaded_of, write_bodies
from benchmarks.parts.traffic import cells
from benchmarks.plot import svg, traffic_svg
from benchmarks.questions import draw, questions
from benchmarks.report import markdown
from benchmarks.run import take_turns

OUTPUT = """
finished in 12.00ms, 83333.33 req/s, 9.54MB/s
requests: 1000 total, 1000 started, 1000 done, {} succeeded, {} failed, 0 errored, 0 timeout
status codes: 1000 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 114.49KB (117240) total, 2.12KB (2175) headers (space savings 97.58%), {}KB ({}) data
"""


def test_load_with_all_calls_answered_has_the_rate_of_h2load() -> None:
    """A call counts when its answer arrives."""
    assert 83333.33 == rate_of(OUTPUT.format(1000, 0, 112, 115_000), 1000, 110)


@pytest.mark.parametrize(
    "output",
    [
        pytest.param(OUTPUT.format(999, 1, 112, 115_000), id="one failed"),
        pytest.param(OUTPUT.format(1000, 0, 0, 0), id="statuses of gRPC, and no messages"),
        pytest.param(OUTPUT.format(1000, 0, 50, 50_000), id="half the messages"),
        pytest.param("", id="nothing"),
    ],
)
def test_load_with_a_wrong_answer_is_invalid(output: str) -> None:
    """h2load counts a gRPC error as success: only the bytes of the answer decide."""
    with pytest.raises(LoadFailed):
        rate_of(output, 1000, 110)


def test_sides_alternate_after_a_warm_up() -> None:
    """A drift of the machine favours no side, and no first turn counts."""
    taken: list[str] = []

    def side(name: str) -> float:
        taken.append(name)
        return len(taken)

    measured = take_turns({"a": lambda: side("a"), "b": lambda: side("b")}, 2)
    assert ["a", "b", "a", "b", "b", "a"] == taken
    assert {"a": [3, 6], "b": [4, 5]} == measured


def test_ratio_is_the_median_of_the_round_ratios() -> None:
    """One slow second slows both sides of its round and keeps their ratio."""
    part = Part("Verify", "")
    part.add("calls/s", {"ours": [100.0, 10.0, 90.0], "theirs": [50.0, 5.0, 30.0]})
    part.compare("ours to theirs", "ours", "theirs", "≥ 1")
    part.compare("ours to nobody's", "ours", "nobody's")
    assert [2.0] == [ratio.median for ratio in part.ratios]


def test_report_names_measured_and_omitted_parts() -> None:
    """The table states each omission with its reason."""
    part = Part("Verify", "As it is.", left_out=["etcd: it is not installed"])
    part.add("calls/s", {"<ours>": [9_000.0, 10_000.0, 12_000.0]})
    table = markdown({"verify": part}, {"cores": "2"}, {"Python": "3.11"})
    assert "| <ours> | 10,000 | 9,000 | 12,000 | calls/s |" in table
    assert "- Left out: etcd: it is not installed." in table
    assert "&lt;ours&gt;" in svg({"verify": part})


def test_report_shows_latency_beside_each_rate() -> None:
    """A rate without its p99 is misleading."""
    part = Part("Traffic", "")
    part.add("calls/s", {"ours": [9_000.0], "theirs": [7_000.0]})
    part.add("ms", {"ours, p50": [1.5], "ours, p99": [12.0]})
    table = markdown({"traffic": part}, {}, {}).splitlines()
    assert "| | median | least | most | | p50, ms | p99, ms |" in table
    assert not [line for line in table if "processor time" in line]
    assert "| ours | 9,000 | 9,000 | 9,000 | calls/s | 1.50 | 12.0 |" in table
    assert "| theirs | 7,000 | 7,000 | 7,000 | calls/s | | |" in table
    assert not [line for line in table if line.startswith("| ours, p")]


def test_short_traffic_plan_omits_only_key_variations() -> None:
    """The plan has each server and each rival, with and without changes."""
    part = Part("Traffic", "")
    part.add("calls/s", {cell.name: [1.0] for cell in cells()} | {"etcd": [1.0]})
    drawing = traffic_svg(part)
    shown = [cell for cell in cells() if f">{cell.name}<" in drawing]
    assert [cell for cell in cells() if not cell.zipf and not cell.limited] == shown
    assert ">etcd<" in drawing


def test_traffic_plan_covers_engines_tls_changes_skew_and_limits() -> None:
    """No side that is slower than the others is omitted."""
    found = cells()
    assert len(found) == len(set(found))
    for engine in ("SQLite", "PostgreSQL"):
        for tls in (False, True):
            own = [cell for cell in found if (cell.engine, cell.tls) == (engine, tls)]
            uniform = [cell for cell in own if not cell.zipf and not cell.limited]
            assert {0, 10, 50} == {cell.changes for cell in uniform}
            assert any(cell.zipf and cell.changes for cell in own)
            assert any(cell.limited and cell.changes for cell in own)


@pytest.mark.parametrize("counted", ["errors", "wrong"])
def test_load_with_an_error_or_another_verdict_is_invalid(counted: str) -> None:
    """One call in a thousand that is not VALID is too many."""
    times = {"seconds": 0.5, "p50": 800.0, "p99": 2000.0}
    told = {"calls": 1000, "errors": 0, "wrong": 0, "told": "", **times}
    loaded = loaded_of(json.dumps(told), 0.5)
    assert (1000, 2000.0, 0.8, 2.0, 0.5) == loaded
    with pytest.raises(LoadFailed):
        loaded_of(json.dumps(told | {counted: 1}), 0.5)
    with pytest.raises(LoadFailed):
        loaded_of(json.dumps(told | {"calls": 0}), 0.5)


def test_no_request_is_sent_twice() -> None:
    """A cached answer cannot serve a request with another client address."""
    asked = list(questions(["a", "b"], 1_000))
    assert len(asked) == len({question.client_ip for question in asked})
    assert {500} == set(Counter(bool(question.permissions) for question in asked).values())
    assert {"a", "b"} == {question.token for question in asked}


def test_skewed_traffic_picks_keys_by_inverse_rank() -> None:
    """The first of 1,000 keys gets 13 % of the calls, the tenth 1.3 %."""
    keys = [str(rank) for rank in range(1, 1_001)]
    drawn = Counter(draw(keys, 50_000, zipf=True))
    assert 0.134 == pytest.approx(drawn["1"] / 50_000, abs=0.02)
    assert 0.0134 == pytest.approx(drawn["10"] / 50_000, abs=0.005)
    assert max(Counter(draw(keys, 50_000)).values()) < 120


def test_bodies_are_written_with_a_length_prefix(tmp_path: Path) -> None:
    """The load generator finds each request by it."""
    bodies = write_bodies(tmp_path / "bodies", [b"ab", b"", b"x" * 300])
    assert 3 == bodies.number
    assert bodies.path.read_bytes() == (
        b"\x02\0\0\0ab" + b"\0\0\0\0" + b"\x2c\x01\0\0" + b"x" * 300
    )
