"""Asks an implementation in one case, and judges its answer: values with gradients, the step form of a model, and laws."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from harness import Unsupported, rounding, verdict
from harness.cell import WRONG, Answer
from harness.implementation import Implementation
from harness.spec import Bunch, Case, Spec, dice


def values(contestant: Implementation, case: Case, family: str, seed: int = 0, form: str = "whole") -> Answer:
    """Outputs and, where claimed, gradients against the reference. `form="step"` asks a model token by token.

    The question is put in several ways, each of which must get the right answer (see `_ways`).
    """
    spec = contestant.spec
    wrt = spec.differentiable(case) if contestant.gradients and form == "whole" else []
    drawn = spec.inputs(case, family, seed, cotangents=bool(wrt))
    refused = ""
    # The implementation goes first: the truth is nowhere in memory yet.
    if form == "step":
        got = {"": _kept(_step_by_step(contestant, _placed(drawn, case), case))}
    else:
        got, held = {}, []
        for way, x, answer in _ways(contestant, case, drawn, spec.inputs(case, family, seed + 1, cotangents=bool(wrt)), wrt):
            if isinstance(answer, Exception):
                refused = f"takes contiguous inputs only: {type(answer).__name__} where they are strided"
                continue
            got[way] = _kept(answer)
            held.append((answer, got[way]))
            if written := [name for name in drawn if not _same(drawn[name], x[name].detach().cpu())]:
                return Answer(WRONG, {}, f"it writes into its input {written[0]}")
        for answer, kept in held:
            if changed_later := [name for name in kept if not _same(answer[name].detach().cpu(), kept[name])]:
                return Answer(
                    WRONG, {}, f"its answer {changed_later[0]} changes when it is called again: it uses the memory twice"
                )
    axes = verdict.axes_of(spec, case)
    answer = verdict.judge(_reference(spec, case, wrt), dict(drawn), got, case.dtype, axes, seed).answer
    return Answer(answer.outcome, answer.values, answer.note or refused)


def _ways(
    contestant: Implementation, case: Case, drawn: Bunch, others: Bunch, wrt: list[str]
) -> Iterator[tuple[str, Bunch, Any]]:
    """The ways of asking, each with the inputs as given and the answer, or the error of one that refuses strided inputs.

    Plainly, in memory that held another question just before (nothing may be remembered by address or shape); with strided
    inputs, new memory poisoned, and gradients of some inputs only; and without gradients.
    """
    x = _placed(others, case)
    _asked(contestant, x, case, wrt)
    for name, tensor in drawn.items():
        x[name].detach().copy_(tensor)
    yield "", x, _asked(contestant, x, case, wrt)
    strided = Bunch({name: _strided(tensor) for name, tensor in _placed(drawn, case).items()})
    try:
        with _poisoned_memory():
            answer: Any = _asked(contestant, strided, case, wrt[1::2] or wrt)
    except Exception as error:
        answer = error
    yield "with strided inputs", strided, answer
    if wrt:
        with torch.no_grad():
            answer = contestant.outputs(x, case)
        yield "without gradients", x, answer


def _asked(contestant: Implementation, x: Bunch, case: Case, wrt: list[str]) -> Bunch:
    return contestant.outputs_and_gradients(x, case, wrt) if wrt else contestant.outputs(x, case)


def _placed(x: Bunch, case: Case) -> Bunch:
    return Bunch({name: tensor.clone().to(case.device) for name, tensor in x.items()})


def _strided(tensor: Tensor) -> Tensor:
    """The same values with gaps between them, and the first two axes exchanged in memory."""
    roomy = (
        torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), 7, dtype=tensor.dtype, device=tensor.device)
        if tensor.dim()
        else tensor
    )
    if tensor.dim() > 2:
        roomy = roomy.transpose(0, 1).contiguous().transpose(0, 1)
    return roomy[..., ::2].copy_(tensor) if tensor.dim() else tensor


@contextmanager
def _poisoned_memory() -> Iterator[None]:
    """New memory is NaN: what is returned unwritten shows. (This is torch's own fill of uninitialized memory.)"""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


def _kept(answer: Bunch) -> Bunch:
    """A copy that no later call can write into."""
    return Bunch({name: tensor.detach().cpu().clone() for name, tensor in answer.items()})


def law(contestant: Implementation, case: Case, name: str, seed: int = 0) -> Answer:
    """Both sides of a law by the implementation; they may differ by what rounding leaves between those of the reference."""
    spec = contestant.spec
    x = spec.inputs(case, "normal", seed)
    check, words = spec.laws[name].check, (spec.name, case.name, name, seed)

    def by_contestant(given: Mapping[str, Tensor], **changes: Any) -> Bunch:
        inputs, resized = changed(spec, case, given, changes)
        return _kept(contestant.outputs({key: t.to(case.device).contiguous() for key, t in inputs.items()}, resized))

    def by_reference(given: Mapping[str, Tensor], **changes: Any) -> Bunch:
        inputs, resized = changed(spec, case, given, changes)
        return Bunch({key: rounding.stored(t) for key, t in spec.reference(inputs, resized).items()})

    with torch.no_grad():
        got = _differences(check(by_contestant, Bunch({key: t.to(case.device) for key, t in x.items()}), dice(*words)))
    if not got or not all(t.numel() for t in got.values()):
        return Answer(WRONG, {}, f"the law {name} compared nothing")
    return verdict.judge(
        lambda y: _differences(check(by_reference, Bunch(y), dice(*words))), dict(x), {"": got}, case.dtype, {}, seed
    ).answer


def changed(spec: Spec, case: Case, given: Mapping[str, Tensor], changes: Mapping[str, Any]) -> tuple[Bunch, Case]:
    """Inputs and case after a law's changes: tensors are inputs, whose shapes give new sizes; the rest are options."""
    inputs = Bunch({**given, **{name: value for name, value in changes.items() if isinstance(value, Tensor)}})
    options = {name: value for name, value in changes.items() if not isinstance(value, Tensor)}
    sizes = spec.contract.sizes({name: tensor.shape for name, tensor in inputs.items()})
    return inputs, case.resized({**sizes, **options})


def _reference(spec: Spec, case: Case, wrt: list[str]) -> rounding.Function:
    plain: rounding.Function = lambda y: dict(spec.reference(y, case))  # noqa: E731
    return rounding.with_gradients(plain, wrt) if wrt else plain


def _step_by_step(contestant: Implementation, x: Bunch, case: Case) -> Bunch:
    """Logits [b n v] of a model that is given one token at a time, and nothing else but its own state."""
    model: Any = contestant.model(x, case)
    if not hasattr(model, "step"):
        raise Unsupported("has no step form: its module has no method step(ids[b], state) -> (logits[b v], state)")
    state, logits = None, []
    with torch.no_grad():
        for ids in x.ids.unbind(1):
            one, state = model.step(ids, state)
            logits.append(one)
    return Bunch(logits=torch.stack(logits, 1))


def _differences(sides: tuple[Any, Any]) -> dict[str, Tensor]:
    left, right = (side if isinstance(side, tuple) else (side,) for side in sides)
    return {
        f"left - right, output {i}": one.double() - other.double() for i, (one, other) in enumerate(zip(left, right, strict=True))
    }


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num())
