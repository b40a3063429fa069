"""The verdict on what an implementation returned, and the words for it. A verdict is a value, never an exception."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from harness import compare
from harness.cell import OK, WRONG, Answer
from harness.spec import GRADIENT

# An element counts as wrong where it is off by more than this many budgets of its row.
ELEMENT = 4.0
LOOKS = ("A", "B", "B")  # the grades that are tried; the last again by more samples, where it was a near thing
NEAR = 4.0
FEW = 6
# Axes along which there is a first wrong element: queries or time steps, and keys.
TIME = ("n", "m")


@dataclass(frozen=True)
class Verdict:
    """Score and grade: A within the budget, B within that of low-precision intermediates, none beyond."""

    score: float
    grade: str
    scores: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    @property
    def answer(self) -> Answer:
        values = {"score": self.score, "grade": self.grade, "scores": dict(self.scores)}
        return Answer(OK if self.grade else WRONG, values, self.note)


# What is right, and what may be lost, of each result, by the number of the look: in A, and in B, of low-precision intermediates.
Truths = Callable[[int], tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]


def judge(
    truths: Truths,
    answers: Mapping[str, Mapping[str, Tensor]],
    axes: Mapping[str, Sequence[str]],
    allowance: str,
    sides: bool = False,
) -> Verdict:
    """Compare answers with what is right, within what may be lost; `allowance` says in words what that is.

    `answers` are named tensors for each way in which the question was put (the plain one has no name); the worst counts.
    `axes` names the axes of each result, for the message. With `sides`, results are differences of two sides of a law, and the
    message is about the first that is too large, not about the worst.
    """
    if not answers or not all(answers.values()):
        return Verdict(float("inf"), "", {}, "  nothing was compared")
    found = _compared(truths, answers)
    asked = [name for name in found.truth if any(name in of for of in found.strict.values())]
    scores = {name: max(of[name] for of in found.strict.values() if name in of) for name in asked}
    note = "" if found.grade else _failure(found, answers, axes, allowance, sides)
    return Verdict(max(scores.values()), found.grade, scores, note)


@dataclass(frozen=True)
class _Compared:
    """The grade that answers reach, and by each way of asking the scores of each result: in grade A, and in the last tried."""

    grade: str
    truth: Mapping[str, Tensor]
    allowed: Mapping[str, Tensor]  # in grade A
    strict: Mapping[str, Mapping[str, float]]
    last: Mapping[str, Mapping[str, float]]


def _compared(truths: Truths, answers: Mapping[str, Mapping[str, Tensor]]) -> _Compared:
    """Look after look, until one finds the answers within what may be lost."""
    for look, grade in enumerate(LOOKS):
        truth, budget = truths(look)
        if grade == "A":
            allowed = budget
        # Intermediates that saturate leave less behind than exact ones do; who stays within grade A is right in B too.
        budget = {name: torch.maximum(each, allowed[name]) for name, each in budget.items()}
        by_way = {way: {n: compare.score(got[n].cpu(), truth[n], budget[n]) for n in got} for way, got in answers.items()}
        if grade == "A":
            strict = by_way
        worst = max(max(scores.values()) for scores in by_way.values())
        if worst <= 1 or (grade == "B" and worst > NEAR):
            break
    return _Compared(grade if worst <= 1 else "", truth, allowed, strict, by_way)


def _failure(
    found: _Compared,
    answers: Mapping[str, Mapping[str, Tensor]],
    axes: Mapping[str, Sequence[str]],
    allowance: str,
    sides: bool,
) -> str:
    """The lines about answers that reach no grade."""
    # The first way that fails is the one to be told: what fails plainly fails otherwise too.
    way = next(way for way, of in found.last.items() if max(of.values()) > 1)
    failing = [name for name in found.truth if found.last[way].get(name, 0.0) > 1]
    # Where an output is wrong, so are gradients: the output is told.
    outputs = [name for name in failing if not name.endswith(GRADIENT)]
    told = failing[0] if sides else max(outputs or failing, key=lambda name: found.strict[way][name])
    got, right = answers[way][told].cpu().double(), found.truth[told].double()
    off, score = _off(got, right, found.allowed[told]), f"score {found.strict[way][told]:.2g}, allowed 1 ({allowance})"
    note = _difference(told, got, right, off, axes.get(told, ()), score, sides)
    if not sides and len(failing) > 1:
        note += f"\n  wrong too: {', '.join(name for name in failing if name != told)}"
    if sides and len(failing) > 1:
        others = dict.fromkeys(name.split()[0] for name in failing[1:])
        note += f"\n  {len(failing)} of {len(found.truth)} comparisons fail; the others are of {', '.join(others)}"
    return note + (f"\n  only {way}; plainly asked it is right" if way else "")


def _off(got: Tensor, truth: Tensor, budget: Tensor) -> Tensor:
    """By how many budgets of its row each element is off."""
    error = torch.where(got == truth, 0.0, (got - truth).abs()).nan_to_num(nan=torch.inf)
    allowed = budget.square().mean(-1, keepdim=True).sqrt() if budget.dim() else budget
    return torch.where(error == 0, 0.0, error / allowed)


def _difference(name: str, got: Tensor, truth: Tensor, off: Tensor, axes: Sequence[str], score: str, sides: bool) -> str:
    """The lines that say where a result is off, and by how much."""
    if truth.numel() == 0:
        return f"  {name} is empty: nothing was compared"
    at = torch.unravel_index(off.argmax(), off.shape)
    # An axis that is a number in the contract has no name but its place.
    named = [f"{int(i)}" if axis.isdigit() else f"{axis}={int(i)}" for axis, i in zip(axes, at, strict=True)] if axes else []
    index = " ".join(named) or ", ".join(str(int(i)) for i in at)
    wrong = off > ELEMENT
    what = f"{name}: the sides of the law differ by {got[at]:.6g} at {index}" if sides else ""
    lines = [
        f"  {what or f'{name}[{index}] {_unlike(float(got[at]), float(truth[at]))}'}",
        f"  {score}",
        f"  {_share(wrong)}{_confined(wrong, axes)}{_first(wrong, axes, always=sides)}"
        if wrong.any()
        else "  no element stands out: all are a little off, in the same way",
    ]
    if not got.isfinite().all() and truth.isfinite().all():
        lines.append(f"  {int((~got.isfinite()).sum())} of {got.numel()} elements are NaN or infinite")
    return "\n".join(lines)


def _unlike(got: float, truth: float) -> str:
    """Two numbers, with as many digits as tell them apart."""
    if math.isnan(truth):
        return f"is {got:.6g}, where the definition itself gives no number"
    digits = next((digits for digits in range(6, 17) if f"{got:.{digits}g}" != f"{truth:.{digits}g}"), 17)
    return f"is {got:.{digits}g}, but should be {truth:.{digits}g}"


def _share(wrong: Tensor) -> str:
    count, share = int(wrong.sum()), wrong.double().mean().item()
    if share == 1:
        return "every element wrong"
    return f"{share:.0%} of elements wrong" if share >= 0.01 else f"{count} of {wrong.numel()} elements wrong"


def _confined(wrong: Tensor, axes: Sequence[str]) -> str:
    """On which few indices of an axis everything wrong lies."""
    for dim in sorted(range(wrong.dim()), key=lambda dim: -wrong.shape[dim]):
        where = (
            wrong.any(dim=tuple(d for d in range(wrong.dim()) if d != dim)).nonzero().flatten().tolist()
            if wrong.dim() > 1
            else []
        )
        if where and len(where) < wrong.shape[dim] and axes:
            run = where == list(range(where[0], where[-1] + 1))
            if len(where) <= FEW or run:
                said = ", ".join(map(str, where)) if len(where) <= FEW else f"{where[0]} ... {where[-1]}"
                return f", all at {f'axis {dim}' if axes[dim].isdigit() else axes[dim]} = {said}"
    return ""


def _first(wrong: Tensor, axes: Sequence[str], always: bool) -> str:
    """From which time on something is wrong, where it is not from the start."""
    time = next((axis for axis in TIME if axis in axes), None)
    if time is None or f" at {time} = " in _confined(wrong, axes):
        return ""
    first = int(wrong.movedim(axes.index(time), 0).flatten(1).any(1).nonzero()[0])
    return f", the first at {time} = {first}" if first or always else ""


def axes_of(spec: Any, case: Any) -> dict[str, Sequence[str]]:
    """Axis names of every output and gradient of a spec."""
    named = {tensor.name: tensor.axes for tensor in spec.contract.outputs}
    return named | {f"{tensor.name}.grad": tensor.axes for tensor in spec.given(case)}
