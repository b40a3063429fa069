"""Asks an implementation in one case, and judges its answer: values with gradients, the step form of a model, and laws."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from harness import rounding, verdict
from harness.cell import WRONG, Answer
from harness.contract import ContractError
from harness.implementation import Implementation
from harness.isolated import Isolated
from harness.spec import GRADIENT, Bunch, Case, Spec, dice

Contestant = Implementation | Isolated


def values(contestant: Contestant, case: Case, family: str, seed: int = 0, form: str = "whole") -> Answer:
    """Outputs and, where claimed, gradients against the reference. `form="step"` asks a model token by token.

    The question is put in several ways, each of which must get the right answer (see `asking`).
    """
    spec = contestant.spec
    wrt = spec.differentiable(case) if contestant.gradients and form == "whole" else []
    # The implementation goes first: the truth is nowhere in memory yet.
    got, refused = contestant.ways(case, family, seed, form)
    drawn = spec.inputs(case, family, seed, cotangents=bool(wrt))
    _check_complete(got, spec, case, wrt)
    axes = verdict.axes_of(spec, case)
    answer = verdict.judge(_reference(spec, case, wrt), dict(drawn), got, case.dtype, axes, seed).answer
    return Answer(answer.outcome, answer.values, answer.note or refused)


@dataclass(frozen=True)
class Run:
    """How a law asks: `run(x, q=...)` gives outputs by name, and `run.gradients(x, q=...)` also `q.grad` of each input q.

    What is changed are inputs, cotangents `out.grad`, and options. Who claims no gradients is asked for outputs only.
    """

    spec: Spec
    case: Case
    ask: Callable[[Bunch, Case, list[str]], Bunch]
    claimed: bool = True

    def __call__(self, given: Mapping[str, Tensor], **changes: Any) -> Bunch:
        inputs, case = changed(self.spec, self.case, given, changes)
        return self.ask(Bunch({name: tensor for name, tensor in inputs.items() if not name.endswith(GRADIENT)}), case, [])

    def gradients(self, given: Mapping[str, Tensor], **changes: Any) -> Bunch:
        inputs, case = changed(self.spec, self.case, given, changes)
        wrt = self.spec.differentiable(case) if self.claimed else []
        return self.ask(inputs, case, wrt) if wrt else self(given, **changes)


def law(contestant: Contestant, case: Case, name: str, seed: int = 0) -> Answer:
    """Both sides of a law by the implementation; they may differ by what rounding leaves between those of the reference."""
    spec, claimed = contestant.spec, contestant.gradients
    x = spec.inputs(case, "normal", seed, cotangents=True)
    check, words = spec.laws[name].check, (spec.name, case.name, name, seed)

    def by_contestant(inputs: Bunch, resized: Case, wrt: list[str]) -> Bunch:
        return contestant.answered(inputs, resized, wrt)

    def by_reference(inputs: Bunch, resized: Case, wrt: list[str]) -> Bunch:
        return Bunch({key: rounding.stored(t) for key, t in _reference(spec, resized, wrt)(inputs).items()})

    got = _differences(check(Run(spec, case, by_contestant, claimed), x, dice(*words)))
    if not got or not all(t.numel() for t in got.values()):
        return Answer(WRONG, {}, f"the law {name} compared nothing")
    found = verdict.judge(
        lambda y: _differences(check(Run(spec, case, by_reference, claimed), Bunch(y), dice(*words))),
        dict(x),
        {"": got},
        case.dtype,
        {key: verdict.axes_of(spec, case).get(key.split()[0], ()) for key in got},
        seed,
        sides=True,
    )
    # A law may compare the same quantity many times.
    quantities = dict.fromkeys(key.split()[0] for key in found.scores)
    scores = {it: max(score for key, score in found.scores.items() if key.split()[0] == it) for it in quantities}
    return replace(found, scores=scores).answer


def changed(spec: Spec, case: Case, given: Mapping[str, Tensor], changes: Mapping[str, Any]) -> tuple[Bunch, Case]:
    """Inputs and case after a law's changes: tensors are inputs, whose shapes give new sizes; the rest are options."""
    inputs = Bunch({**given, **{name: value for name, value in changes.items() if isinstance(value, Tensor)}})
    options = {name: value for name, value in changes.items() if not isinstance(value, Tensor)}
    sizes = spec.contract.sizes({name: tensor.shape for name, tensor in inputs.items()})
    return inputs, case.resized({**sizes, **options})


def _check_complete(got: Mapping[str, Bunch], spec: Spec, case: Case, wrt: list[str]) -> None:
    """What comes from the other process is not believed to be whole, nor of the right shape."""
    shapes = {tensor.name: tensor.shape(case.values) for tensor in spec.contract.outputs}
    shapes |= {t.name + GRADIENT: t.shape(case.values) for t in spec.given(case) if t.name in wrt}
    if "" not in got or set(got[""]) != set(shapes):
        raise ContractError("it did not answer what it was asked for")
    for answer in got.values():
        for name, tensor in answer.items():
            if name not in shapes or tuple(tensor.shape) != shapes[name] or tensor.dtype not in (case.dtype, torch.float32):
                raise ContractError(f"{name} came back as {tensor.dtype} {list(tensor.shape)}")


def _reference(spec: Spec, case: Case, wrt: list[str]) -> rounding.Function:
    plain: rounding.Function = lambda y: dict(spec.reference(y, case))  # noqa: E731
    return rounding.with_gradients(plain, wrt) if wrt else plain


def paired(sides: tuple[Any, Any]) -> dict[str, tuple[Tensor, Tensor]]:
    """What a law says is equal, by name. Its sides are tensors, tuples of them, or dicts with the same names."""
    left, right = (
        side if isinstance(side, Mapping) else dict(_numbered(side if isinstance(side, tuple) else (side,))) for side in sides
    )
    if set(left) != set(right):
        raise ValueError(f"the sides of a law have different names: {', '.join(left)}; {', '.join(right)}")
    return {name: (one, right[name]) for name, one in left.items()}


def _numbered(side: tuple[Tensor, ...]) -> Iterator[tuple[str, Tensor]]:
    for i, tensor in enumerate(side):
        yield f"result {i}", tensor


def _differences(sides: tuple[Any, Any]) -> dict[str, Tensor]:
    return {name: one.double() - other.double() for name, (one, other) in paired(sides).items()}
