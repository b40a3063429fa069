"""What a comparison of two revisions finds in records that are made up: no end of a cell is lost, and no cost rises unseen."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from harness import findings
from harness.cell import Cell, Record
from harness.findings import Findings


def record(values: Mapping[str, Any], suite: str = "memory", outcome: str = "ok", **settings: Any) -> Record:
    cell = Cell(suite, "attention", "plain", "", "causal", "float32", "cpu", 0, {"form": "forward", **settings})
    return Record(cell, outcome, values, "", {}, "here", {}, 0.1, "2026-01-01", "r")


def counted(base: Sequence[Record], head: Sequence[Record]) -> Findings:
    found = Findings("main", ".", 6, 0.1)
    findings.judge_counted(found, base, head)
    return found


@pytest.mark.parametrize(
    ("base", "head", "standing"),
    [
        ({"peak_bytes": 100}, {"peak_bytes": 101}, "costlier"),
        ({"peak_bytes": 101}, {"peak_bytes": 100}, "better"),
        ({"state_bytes": 0}, {"state_bytes": 1}, "costlier"),
        ({"flops": 5}, {"flops": 5}, "equal"),
        ({"kernel": {"registers": 32}}, {"kernel": {"registers": 33}}, "costlier"),
        ({"kernel": {"tensor_core": 8}}, {"kernel": {"tensor_core": 0}}, "costlier"),
        ({"kernel": {"tensor_core": 0}}, {"kernel": {"tensor_core": 8}}, "better"),
    ],
)
def test_any_rise_of_a_cost_and_any_fall_of_a_gain_counts(base: dict[str, Any], head: dict[str, Any], standing: str):
    (cost,) = counted([record(base)], [record(head)]).costs
    assert cost.standing == standing


def test_what_is_no_cost_is_not_compared():
    values = {"kernel": {"instructions": 1, "warps": 4, "multiplies": True}, "note": "x", "samples": [1], "seconds_s": 1.0}
    assert not counted([record(values)], [record(values)]).costs


def test_a_quantity_of_one_side_only_is_named():
    found = counted([record({"peak_bytes": 1})], [record({"peak_bytes": 1, "state_bytes": 1})])
    assert [one.what for one in found.apart] == ["state_bytes only in HEAD"]
    assert not found.failed


@pytest.mark.parametrize(
    ("base", "head", "what", "broken"),
    [
        ("ok", "crashed", "crashed in HEAD, ok in BASE", True),
        ("ok", "unsupported", "unsupported in HEAD, ok in BASE", False),
        ("wrong", "ok", "BASE: wrong; HEAD: ok", False),
        ("wrong", "wrong", "BASE: wrong; HEAD: wrong", False),
    ],
)
def test_how_cells_ended_is_never_left_out(base: str, head: str, what: str, broken: bool):
    found = counted([record({}, outcome=base)], [record({}, outcome=head)])
    assert [(one.what, one.broken) for one in found.apart] == [(what, broken)]


def test_what_is_no_longer_supported_fails_with_its_reason_unless_it_is_allowed():
    found = counted([record({"flops": 1})], [replace(record({}, outcome="unsupported"), note="no window")])
    assert [one.what for one in found.broken] == ["unsupported in HEAD, ok in BASE: no window"]
    assert "1 cell fails that did not" in findings.summary(found)
    found.allowed = ("attention/*", "rotary/*")
    assert not found.broken
    assert findings.idle(found) == ["rotary/*"]


def test_what_one_side_alone_has_is_counted_in_the_first_line():
    both, gone = record({"flops": 1}), record({"flops": 1}, form="step")
    found = counted([both, gone], [both])
    assert findings.summary(found).endswith("; 1 cell only in BASE")
    assert not found.failed


def test_what_neither_side_supports_is_counted_only():
    found = counted([record({}, outcome="unsupported")], [record({}, outcome="unsupported")])
    assert findings.summary(found) == ". against main; nothing was compared; 1 cell unsupported on both sides"
    assert "Not compared" not in findings.tables(found)


def timed(seconds: float, outcome: str = "ok", number: int = 0) -> Record:
    return record({"seconds": [seconds * 1.5, seconds, seconds * 2]}, "speed", outcome, round=number)


def test_rounds_of_a_cell_are_one_cell_and_its_fastest_sample_counts():
    found = Findings("main", ".", 6, 0.1)
    findings.judge_timed(found, [[timed(2.0), timed(1.0, number=1)]] * 7, [[timed(1.0), timed(1.5, number=1)]] * 6)
    assert [(time.base_s, time.head_s, time.judgement.verdict) for time in found.times] == [(1.0, 1.0, "not slower")]


def test_what_further_runs_say_of_a_slower_cell_stands_and_unanswered_it_stays_slower():
    found = Findings("main", ".", 6, 0.1)
    findings.judge_timed(found, [[timed(1.0)]] * 7, [[timed(1.3)]] * 6)
    (first,) = found.slower
    findings.judge_again(found, [], [])
    assert found.times == [first]
    findings.judge_again(found, [[timed(1.0)]] * 7, [[timed(1.2)]] * 6)
    assert [round(time.judgement.ratio, 3) for time in found.slower] == [1.2]
    findings.judge_again(found, [[timed(1.0)]] * 7, [[timed(1.0)]] * 6)
    assert [time.judgement.why for time in found.times] == ["+20.0% at first, not so when asked again"]
    assert not found.slower


def test_a_cell_that_fails_now_and_then_is_not_judged_and_not_hidden():
    found = Findings("main", ".", 6, 0.1)
    findings.judge_timed(found, [[timed(1.0)]] * 7, [[timed(1.0)]] * 5 + [[timed(1.0, "timed_out")]])
    (one,) = found.apart
    assert one.what == "BASE: ok in 7 of 7 processes; HEAD: ok in 5 of 6 processes, timed_out in 1 of 6 processes"
    assert not one.broken
    assert not found.times


def test_a_run_that_stopped_early_judges_nothing():
    found = Findings("main", ".", 6, 0.1)
    findings.judge_timed(found, [[timed(1.0)]] * 3, [[timed(1.0)]] * 2)
    assert not found.times
    assert "no answer in 4 of 7 processes" in found.apart[0].what


def test_ok_without_a_time_is_broken():
    found = Findings("main", ".", 6, 0.1)
    nothing = replace(timed(1.0), values={})
    findings.judge_timed(found, [[timed(1.0)]] * 7, [[nothing]] * 6)
    assert found.failed
    assert found.broken[0].what == "a process says ok and gives no seconds"
