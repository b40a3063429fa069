"""Judges the judge: are the known mistakes of a spec caught, and does the reference obey its own laws?

A mistake is a wrong reference; it plays the implementation, in float64, with its results stored in the tested dtype.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from harness import compare, rounding
from harness.implementation import Implementation
from harness.judge import changed
from harness.spec import GRADIENT, Bunch, Case, Law, Mistake, Spec, dice


@dataclass
class Question:
    """One case, dtype and input family of a spec, with the truth and the budgets that judge it."""

    spec: Spec
    case: Case
    family: str
    seed: int = 0

    @cached_property
    def x(self) -> Bunch:
        return self.spec.inputs(self.case, self.family, self.seed, cotangents=True)

    @cached_property
    def truth(self) -> dict[str, Tensor]:
        return rounding.truth(self._function(), dict(self.x))

    @cached_property
    def strict(self) -> dict[str, Tensor]:
        """The budget of grade A."""
        return self._budget(low=False)

    @cached_property
    def lenient(self) -> dict[str, Tensor]:
        """The budget of grade B."""
        return self._budget(low=True)

    def score(self, mistake: Mistake) -> float:
        """The score of a mistake: above 1 it is caught. The lenient budget decides where the strict one is exceeded."""
        wrong = rounding.truth(self._function(mistake), dict(self.x))
        kept = {name: tensor.to(self.case.dtype) for name, tensor in wrong.items()}
        score = self._worst(kept, self.strict)
        return min(score, self._worst(kept, self.lenient)) if score > 1 else score

    def judged(self, contestant: Implementation) -> tuple[float, float]:
        """The scores of an implementation: against the strict budget, and against the one that decides."""
        given = Bunch({name: tensor.clone() for name, tensor in self.x.items()})
        wanted = self.spec.differentiable(self.case) if contestant.gradients else []
        answer = contestant.outputs_and_gradients(given, self.case, wanted) if wanted else contestant.outputs(given, self.case)
        got = {name: tensor.detach() for name, tensor in answer.items()}
        strict = self._worst(got, self.strict)
        return strict, min(strict, self._worst(got, self.lenient)) if strict > 1 else strict

    def _worst(self, got: dict[str, Tensor], budget: dict[str, Tensor]) -> float:
        return max(compare.score(got[name], self.truth[name], budget[name]) for name in got)

    def _budget(self, low: bool) -> dict[str, Tensor]:
        return rounding.budget(self._function(), dict(self.x), self.case.dtype, seed=self.seed, intermediates=low)

    def _function(self, mistake: Mistake | None = None) -> rounding.Function:
        function = mistake.function if mistake else None
        return rounding.with_gradients(
            lambda y: dict(self.spec.reference(y, self.case, function)), self.spec.differentiable(self.case)
        )


def questions(spec: Spec, dtype: torch.dtype) -> list[Question]:
    """Every case and family of a spec in one dtype, the cheap ones first: most mistakes need no other."""
    asked = [Question(spec, spec.case(case, dtype), family) for case in spec.cases for family in spec.families]
    return sorted(asked, key=lambda question: sum(tensor.numel() for tensor in question.x.values()))


def caught(mistake: Mistake, asked: list[Question]) -> Iterator[tuple[Question, float]]:
    """The questions that a mistake fails, with its scores."""
    for question in asked:
        if (score := question.score(mistake)) > 1:
            yield question, score


def breaks(spec: Spec, law: Law, case: Case) -> float:
    """By how much the reference itself, in float64, fails a law, relative to what it compares."""

    def run(given: Bunch, **changes: Any) -> Bunch:
        return spec.reference(*changed(spec, case, given, changes))

    x = Bunch({n: t.double() if t.is_floating_point() else t for n, t in spec.inputs(case).items() if not n.endswith(GRADIENT)})
    left, right = law.check(run, x, dice(spec.name, case.name, law.name))
    left, right = (side if isinstance(side, tuple) else (side,) for side in (left, right))
    if not all(one.numel() for one in left):
        return float("inf")
    return max(float((one - other).abs().max() / (1 + other.abs().max())) for one, other in zip(left, right, strict=True))
