"""How fast the instrument itself is, as ratios and times that anyone can measure: pytest ci/benchmarks --benchmark-only."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import plan, runner, worker

CHEAP = {
    "suite": "correctness",
    "spec": "rotary",
    "impl": "pairs",
    "dtype": "float32",
    "family": "normal",
    "seed": "0,1,2,3,4,5,6,7",
}


def cells(words: dict[str, str]) -> list:
    chosen, suite = plan.selection(words)
    return [(cell, {}) for cell in plan.cells(chosen, suite)]


@pytest.mark.parametrize("spec", ["rotary", "attention", "retention"])
def test_cells_per_second_of_correctness(benchmark, spec: str):
    asked = cells({"suite": "correctness", "spec": spec, "dtype": "bfloat16"})[:200]
    list(runner.run(asked[:1], runner.Limits(), None))  # the fork server is up
    benchmark.pedantic(lambda: list(runner.run(asked, runner.Limits(), None)), rounds=3)
    benchmark.extra_info["cells per second"] = round(len(asked) / benchmark.stats["median"], 1)


def test_the_whole_of_correctness_for_one_attention(benchmark):
    asked = cells({"suite": "correctness", "spec": "attention", "impl": "plain"})
    records = benchmark.pedantic(lambda: list(runner.run(asked, runner.Limits(), None)), rounds=1)
    benchmark.extra_info["cells per second"] = round(len(asked) / benchmark.stats["median"], 1)
    assert all(record.outcome == "ok" for record in records), "an honest implementation is not ok: its time says nothing"


def test_overhead_of_a_worker_per_cell(benchmark):
    asked = cells(CHEAP)
    one = runner.Limits(workers=1)
    list(runner.run(asked, one, None))
    began = time.perf_counter()
    for cell, _ in asked:
        worker.asked(cell)
    alone = time.perf_counter() - began
    benchmark.pedantic(lambda: list(runner.run(asked, one, None)), rounds=3)
    benchmark.extra_info["overhead of a cell in ms"] = round(1000 * (benchmark.stats["median"] - alone) / len(asked), 2)


def test_time_from_command_to_first_verdict_of_check(benchmark, tmp_path: Path):
    command = [sys.executable, "-m", "harness"]
    subprocess.run([*command, "new", "implementation", "mine", "spec=attention"], cwd=tmp_path, check=True, capture_output=True)
    check = [*command, "check", "mine.py", "case=plain", "dtype=float32", "family=normal"]
    benchmark.pedantic(lambda: subprocess.run(check, cwd=tmp_path, check=True, capture_output=True), rounds=3)


def test_list(benchmark):
    benchmark.pedantic(
        lambda: subprocess.run([sys.executable, "-m", "harness", "list"], check=True, capture_output=True), rounds=5
    )
