"""One case, dtype and input family of a spec, with its truth and budgets: who accepts an answer, and with what score?"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from harness import compare, elsewhere, rounding
from harness.implementation import Implementation
from harness.spec import Bunch, Case, Mistake, Spec

OURS = "the budget"
PLAIN = "plain code"  # the reference itself, run in the tested dtype
JUDGES = (OURS, *elsewhere.RULES)


@dataclass
class Trial:
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
    def plain(self) -> dict[str, Tensor]:
        """What the reference answers when it is run in the tested dtype; in float32, or as it is, where it cannot be."""
        for dtype in (self.case.dtype, torch.float32):
            x = {name: t.to(dtype) if t.dtype == self.case.dtype else t for name, t in self.x.items()}
            same = lambda y, d=dtype: {n: t.to(d) for n, t in self.spec.reference(y, self.case).items()}  # noqa: E731
            try:
                found = rounding.with_gradients(same, self.spec.differentiable(self.case))(x)
            except RuntimeError:
                continue
            return {name: tensor.detach().to(self.case.dtype) for name, tensor in found.items()}
        return {name: tensor.to(self.case.dtype) for name, tensor in self.truth.items()}

    @cached_property
    def strict(self) -> dict[str, Tensor]:
        """The budget of grade A."""
        return self._budget(low=False)

    @cached_property
    def lenient(self) -> dict[str, Tensor]:
        """The budget of grade B, nowhere below that of grade A."""
        return {name: torch.maximum(each, self.strict[name]) for name, each in self._budget(low=True).items()}

    def answer(self, mistake: Mistake) -> dict[str, Tensor]:
        """What a wrong function returns, its gradients too, stored in the tested dtype."""
        wrong = rounding.truth(self._function(mistake), dict(self.x))
        return {name: tensor.to(self.case.dtype) for name, tensor in wrong.items()}

    def fails(self, mistake: Mistake, judges: Sequence[str]) -> tuple[dict[str, bool], float, str]:
        """Which of these judges catch a wrong function, its score (0 if it answers as the reference does), and how it fails."""
        try:
            got = self.answer(mistake)
        except Exception as error:
            return dict.fromkeys(judges, True), float("inf"), f"raises {type(error).__name__}"
        if any(got[name].shape != self.truth[name].shape for name in got):
            return dict.fromkeys(judges, True), float("inf"), "has another shape"
        verdicts, score = self.rejects(got, judges)
        return verdicts, score, f"score {score:.2g}"

    def rejects(self, got: dict[str, Tensor], judges: Sequence[str]) -> tuple[dict[str, bool], float]:
        """Which of these judges reject an answer, and its score; 0 where it is the reference's own, bit for bit."""
        same = all(torch.equal(got[name], self.truth[name].to(got[name].dtype)) for name in got)
        score = 0.0 if same or OURS not in judges else self.score(got)
        rules = {name: rule for name, rule in elsewhere.RULES.items() if name in judges}
        return {OURS: score > 1} | {name: not rule(got, self.truth, self.plain) for name, rule in rules.items()}, score

    def judged(self, contestant: Implementation) -> tuple[float, float]:
        """The `scores` of an implementation."""
        given = Bunch({name: tensor.clone() for name, tensor in self.x.items()})
        wanted = self.spec.differentiable(self.case) if contestant.gradients else []
        answer = contestant.outputs_and_gradients(given, self.case, wanted) if wanted else contestant.outputs(given, self.case)
        return self.scores({name: tensor.detach() for name, tensor in answer.items()})

    def scores(self, got: dict[str, Tensor]) -> tuple[float, float]:
        """The scores of an answer: against the strict budget, and against the one that decides; above 1 it is rejected.

        The lenient budget decides where the strict one is exceeded."""
        strict = self._worst(got, self.strict)
        return strict, min(strict, self._worst(got, self.lenient)) if strict > 1 else strict

    def score(self, got: dict[str, Tensor]) -> float:
        """The score that decides."""
        return self.scores(got)[1]

    def _worst(self, got: dict[str, Tensor], budget: dict[str, Tensor]) -> float:
        return max(compare.score(got[name], self.truth[name], budget[name]) for name in got)

    def _budget(self, low: bool) -> dict[str, Tensor]:
        return rounding.budget(self._function(), dict(self.x), self.case.dtype, seed=self.seed, intermediates=low)

    def _function(self, mistake: Mistake | None = None) -> rounding.Function:
        function = mistake.function if mistake else None
        return rounding.with_gradients(
            lambda y: dict(self.spec.reference(y, self.case, function)), self.spec.differentiable(self.case)
        )


def trials(spec: Spec, dtype: torch.dtype) -> list[Trial]:
    """Every case and family of a spec in one dtype, the cheap ones first: most mistakes need no other."""
    asked = [Trial(spec, spec.case(case, dtype), family) for case in spec.cases for family in spec.families]
    return sorted(asked, key=lambda trial: sum(tensor.numel() for tensor in trial.x.values()))


def caught(mistake: Mistake, asked: list[Trial]) -> Iterator[tuple[Trial, float]]:
    """The trials that a mistake fails, with its scores. Where it answers as the reference does, no budget is needed."""
    for trial in asked:
        if (score := trial.rejects(trial.answer(mistake), (OURS,))[1]) > 1:
            yield trial, score
