"""What is shown of a run while it goes on, and what is said when it is interrupted."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import progress, runner
from harness.cell import Cell, Record
from harness.store import Store

CELLS = [Cell("correctness", "rotary", "pairs", seed=seed) for seed in range(2)]


def test_a_meter_counts_what_is_done_and_half_done_by_what_it_costs():
    meter = progress.Meter({CELLS[0]: 3.0, CELLS[1]: 1.0})
    assert (meter.fraction, meter.left) == (0.0, "estimating")
    meter.running = {CELLS[0]: (0.5, "values")}
    assert meter.fraction == 1.5 / 4
    meter.finished(CELLS[0])
    assert meter.fraction == 3 / 4, "it is not counted as running too"
    assert meter.count == "1/2 cells"
    meter.began -= 300
    assert meter.left == "100 s left" or meter.left == "2 min left"


@pytest.mark.parametrize(
    ("stored", "said"),
    [(True, "1 of 2 answers are stored; the same command goes on from there"), (False, "interrupted; nothing is stored")],
)
def test_an_interrupted_run_says_what_failed_and_what_is_kept(
    stored: bool, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def run(*_: Any) -> Iterator[Record]:
        yield Record(CELLS[0], "timed_out", {}, "no answer within 60 s", {}, "here", {}, 0.1, "2026", "r")
        raise KeyboardInterrupt

    monkeypatch.setattr(runner, "run", run)
    with pytest.raises(SystemExit) as ended:
        progress.follow([(cell, {}) for cell in CELLS], runner.Limits(), Store(tmp_path) if stored else None, {})
    assert ended.value.code == 130
    told = capsys.readouterr().err
    assert "rotary/pairs timed out" in told, "an hour of answers is lost"
    assert said in told.splitlines()[-1]


def test_failures_are_counted_while_it_goes_on():
    meter = progress.Meter(dict.fromkeys(CELLS, 1.0))
    meter.finished(CELLS[0], failed=True)
    meter.finished(CELLS[1])
    assert meter.count == "2/2 cells, 1 failed"
