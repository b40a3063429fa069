"""Lessons: what a model learns from rows with targets at the best learning rate of few; kept, so that nothing is learned twice.

Each rate is a whole course, and the best counts by the loss of its last steps, each of which has rows that no step before had:
where a skill comes all at once, a search shorter than training says nothing of it.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from harness import weights
from harness.nn import train

LAST_STEPS = 50


@dataclass(frozen=True)
class Lesson:
    """`start()` is the model before it, `rows()` are its batches of ids and targets, `made_of` is all that decides the two."""

    start: Callable[[], nn.Module]
    rows: Callable[[], Iterable[tuple[Tensor, Tensor]]]
    steps: int
    made_of: Mapping[str, Any]


@dataclass(frozen=True)
class Learned:
    """The weights after a lesson at this rate, and the loss of each step; no weights where that came to be no number."""

    rate: float
    weights: Mapping[str, Tensor]
    history: Sequence[float]
    time_s: float
    kept: bool

    @property
    def loss(self) -> float:
        """Bits per answer over the last steps."""
        last = self.history[-LAST_STEPS:]
        return sum(last) / len(last)

    @property
    def told(self) -> dict[str, Any]:
        """What is to be said of it."""
        return {
            "bits_per_answer": round(self.loss, 4),
            "steps": len(self.history),
            "lr": self.rate,
            "time_s": round(self.time_s, 1),
            "weights": "kept from an earlier run" if self.kept else "trained in this run",
        }


def learned(lesson: Lesson, rates: Sequence[float], report: train.Report) -> tuple[Learned, dict[str, Any]]:
    """What is learned at the best of these rates, and what is to be said of it; TrainingFailed where no loss is a number."""
    tried = []
    for i, rate in enumerate(rates):

        def told(share: float, doing: str, i: int = i, rate: float = rate) -> None:
            report((i + share) / len(rates), f"learning rate {rate:g}, {doing}")

        tried.append(_at(lesson, rate, told))
    best = min(tried, key=lambda of: of.loss)
    if not best.weights:
        raise train.TrainingFailed(f"the loss is no number at any learning rate of {', '.join(map(str, rates))}")
    return best, best.told | {"tried": {str(of.rate): round(of.loss, 4) for of in tried}}


def _at(lesson: Lesson, rate: float, report: train.Report) -> Learned:
    course = train.Settings(steps=lesson.steps, lr=rate)
    made, kept = weights.trained({**lesson.made_of, "course": repr(course)}, lambda: _course(lesson, course, report))
    return Learned(rate, made["weights"], made["history"], made["time_s"], kept)


def _course(lesson: Lesson, course: train.Settings, report: train.Report) -> dict[str, Any]:
    """The weights and the loss of each step, or no weights, as `Learned` has them."""
    began, model = time.perf_counter(), lesson.start()
    device = _device(model)
    rows = ((ids.to(device), targets.to(device)) for ids, targets in lesson.rows())
    try:
        history = train.train(model, rows, course, report, unit="bits per answer")
    except train.TrainingFailed:
        return {"weights": {}, "history": [math.inf], "time_s": time.perf_counter() - began}
    return {"weights": model.state_dict(), "history": history, "time_s": time.perf_counter() - began}


def _device(model: nn.Module) -> torch.device:
    """Where a model is, and the CPU where nothing of it is anywhere."""
    kept = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if kept is None else kept.device
