"""Cells of suite=speed as benchmarks of pytest-benchmark, with the rules of the harness's own clock.

A worker judges the cell first, as `harness run` does; what is wrong fails and is not timed, what is unsupported (interpreted
Triton among it) is skipped. Each round has fresh inputs and one call, warmed up until steady, and the answer of a round that is
chosen by chance is judged again.
"""

import random
from collections.abc import Callable
from typing import Any

import pytest

from harness import catalogue, clock, cost, judge, plan, report, request, runner, work
from harness.cell import OK, UNSUPPORTED, Cell
from harness.implementation import Implementation

BEFORE = {"scale": "smoke", "length": "64", "dtype": "float32", "rounds": "1"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    try:
        words = request.read(metafunc.config.getoption("cells").split())
        cells = plan.cells(*plan.selection({"suite": "speed", **BEFORE, **words}))
    except (catalogue.WrongRequest, catalogue.NotFound) as error:
        raise pytest.UsageError(f"--cells: {error}") from None
    metafunc.parametrize("cell", cells, ids=_name)


def _name(cell: Cell) -> str:
    """As asv names it; what is otherwise than by default, after it."""
    asked = [cell.case, cell.settings["form"], str(cell.settings["length"])]
    return "-".join([cell.subject, *asked, *([cell.dtype] if cell.dtype != "float32" else [])])


def test_cell(benchmark: Any, cell: Cell) -> None:
    _judge(cell)
    contestant = Implementation.of(cell)
    question = work.question(cell, contestant.spec)
    with clock.on_threads(question.threads):
        make = cost.calls(contestant, question)
        clock.warm(lambda: make(0), cell.device)
        rounds = _rounds(clock.seconds(make(0), cell.device))
        timed = _Rounds(make, cell.device, chosen=random.SystemRandom().randrange(rounds))
        benchmark.pedantic(timed.call, setup=timed.fresh, rounds=rounds, iterations=1)
    again = judge.at_work(contestant, question, 1 + timed.chosen, cost.kept(contestant, question, timed.kept))
    assert again.outcome == OK, f"timed it answers otherwise than judged\n{again.note}"
    benchmark.extra_info["operations"] = work.operations(contestant.spec, question)
    benchmark.extra_info["bytes"] = work.moved(contestant.spec, question)


class _Rounds:
    """The call of each round, with inputs of its own; the answer of the chosen one is kept."""

    def __init__(self, make: Callable[[int], Callable[[], Any]], device: str, chosen: int):
        self.make, self.device, self.chosen = make, device, chosen
        self.number, self.kept = 0, None

    def fresh(self) -> tuple[tuple[Any], dict[str, Any]]:
        self.number += 1
        made = self.make(self.number)
        if self.device != "cpu":
            import torch

            # Cold caches, as for the clock of the harness.
            torch.empty(clock.COLD_BYTES, dtype=torch.int8, device=self.device).zero_()
        self._finish()
        return (made,), {}

    def call(self, made: Callable[[], Any]) -> None:
        answer = made()
        self._finish()
        if self.number == 1 + self.chosen:
            self.kept = answer

    def _finish(self) -> None:
        """The device has nothing left to do."""
        if self.device != "cpu":
            import torch

            torch.cuda.synchronize()


def _rounds(seconds: float) -> int:
    """As many as suite=speed takes samples."""
    least = cost.LEAST if seconds < cost.FEWEST_S else cost.LEAST_SLOW
    return max(least, min(cost.MOST, round(cost.ENOUGH_S / seconds)))


def _judge(cell: Cell) -> None:
    """The verdict, from a worker: at its small case, at work, and as suite=speed times it."""
    suite = catalogue.load(catalogue.find("suite", cell.suite).path)
    limits = runner.Limits(suite.limits["timeout"], int(suite.limits["memory"] * 2**30), 1)
    (record,) = runner.run([(cell, plan.digests(cell, suite))], limits, None)
    if record.outcome == UNSUPPORTED:
        pytest.skip(record.note)
    assert record.outcome == OK, report.message(record)
