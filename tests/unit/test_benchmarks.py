"""The measuring programme itself: what counts, and that no failed call does."""

from __future__ import annotations

import pytest

from benchmarks.figures import Part
from benchmarks.h2load import LoadFailed, rate_of
from benchmarks.plot import svg
from benchmarks.report import markdown
from benchmarks.run import take_turns

OUTPUT = """
finished in 12.00ms, 83333.33 req/s, 9.54MB/s
requests: 1000 total, 1000 started, 1000 done, {} succeeded, {} failed, 0 errored, 0 timeout
status codes: 1000 2xx, 0 3xx, 0 4xx, 0 5xx
traffic: 114.49KB (117240) total, 2.12KB (2175) headers (space savings 97.58%), {}KB ({}) data
"""


def test_load_in_which_all_calls_are_answered_has_the_rate_that_h2load_tells() -> None:
    """A call that brings its answer counts."""
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
def test_load_with_a_call_that_was_not_answered_right_is_no_figure(output: str) -> None:
    """To h2load a status of gRPC is a success: only an answer's bytes tell."""
    with pytest.raises(LoadFailed):
        rate_of(output, 1000, 110)


def test_sides_take_turns_there_and_back_after_a_turn_to_warm_up() -> None:
    """What gets slower or faster meanwhile favours nobody, and no first turn counts."""
    taken: list[str] = []

    def side(name: str) -> float:
        taken.append(name)
        return len(taken)

    measured = take_turns({"a": lambda: side("a"), "b": lambda: side("b")}, 2)
    assert ["a", "b", "a", "b", "b", "a"] == taken
    assert {"a": [3, 6], "b": [4, 5]} == measured


def test_ratio_is_the_median_of_the_rounds_ratios() -> None:
    """One slow second slows both sides of its round, and leaves their ratio."""
    part = Part("Verify", "")
    part.add("calls/s", {"ours": [100.0, 10.0, 90.0], "theirs": [50.0, 5.0, 30.0]})
    part.compare("ours to theirs", "ours", "theirs", "≥ 1")
    part.compare("ours to nobody's", "ours", "nobody's")
    assert [2.0] == [ratio.median for ratio in part.ratios]


def test_report_names_what_was_measured_and_what_was_left_out() -> None:
    """Whoever reads the table knows what is missing, and why."""
    part = Part("Verify", "As it is.", left_out=["etcd: it is not installed"])
    part.add("calls/s", {"<ours>": [9_000.0, 10_000.0, 12_000.0]})
    table = markdown({"verify": part}, {"cores": "2"}, {"Python": "3.11"})
    assert "| <ours> | 10,000 | 9,000 | 12,000 | calls/s |" in table
    assert "- Left out: etcd: it is not installed." in table
    assert "&lt;ours&gt;" in svg({"verify": part})
