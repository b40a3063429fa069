"""Asks an implementation in one case, and judges its answer: values with gradients, the step form of a model, and laws.

Where a spec defines nothing, each implementation is its own definition: what it computes in float64. No budget can be found for
what nobody may look into, so the rule is a plain one, half the digits: a difference may reach the square root of the rounding
unit, 2**-12 of its row in float32. Laws are then held in float64, to what parts in float32 leave there, 2**-21 of a row.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from harness import Unsupported, cost, rounding, verdict
from harness.cell import OK, WRONG, Answer, Cell
from harness.contract import ContractError
from harness.cost import Question
from harness.implementation import Implementation
from harness.isolated import Isolated
from harness.spec import GRADIENT, Bunch, Case, Spec, dice, dtype_name

Contestant = Implementation | Isolated
HALF, QUARTER = 0.5, 0.25  # of the digits
CANCELLED = 4  # rounding units of the largest gradient in one that cancels to nothing: one of 75 texts left up to 1.8
# What honest parts that compute in float32 may leave of a row between the sides of a law: x-transformers' rotary embedding and
# RecurrentGemma's gates leave up to 1e-7, of which a row is allowed several.
FLOAT32_INSIDE = 2.0**-21
TURNS = "  token by token, with another text read in turn by the same model: all that one step hands on must be in its state"


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
    if spec.defined:
        truths = _truths(_reference(spec, case, wrt), drawn, case, seed)
    else:
        exact = contestant.answered(drawn, case.resized({}, dtype=torch.float64), [])
        budget = {name: _half_the_digits(tensor, case.dtype) for name, tensor in exact.items()}
        truths = lambda look: (exact, budget)  # noqa: E731
    answer = verdict.judge(truths, got, verdict.axes_of(spec, case), _allowance(spec, case.dtype)).answer
    if form == "step" and answer.outcome == WRONG:
        answer = replace(answer, note=f"{answer.note}\n{TURNS}")
    return Answer(answer.outcome, answer.values, answer.note or refused)


def whole(contestant: Contestant, options: Mapping[str, Any], seed: int = 0, device: str = "cpu") -> Answer:
    """Whether a model is that of its spec, in the first case with these options, before anybody trains it.

    One that no spec defines is held against every law; the note of what is wrong begins with a sentence that stands by itself.
    """
    spec = contestant.spec
    cases = (spec.case(name, torch.float32, device) for name in spec.cases)
    named = [case for case in cases if options.items() <= case.values.items()]
    case = named[0] if named else spec.case("plain", torch.float32, device).resized(options)
    answer, broken = values(contestant, case, "normal", seed), "does not compute what its spec says"
    for name in () if spec.defined else spec.laws:
        if answer.outcome == OK:
            answer, broken = law(contestant, case, name, seed), f"breaks the law: {name.replace('_', ' ')}"
    return answer if answer.outcome == OK else replace(answer, note=f"not trained, for it {broken}\n{answer.note}")


_before: dict[tuple[Any, ...], Answer] = {}  # verdicts in small cases, by who is asked: the same at every length


def before_work(contestant: Contestant, cell: Cell, question: Question, small: Case, seed: int) -> Answer:
    """The verdict without which nothing is timed or weighed: in the small case within the rounding budget, then at work.

    With it come the seconds of preparing and of the first call at these sizes."""
    if question.form == "training" and not contestant.gradients:
        raise Unsupported("claims no gradients here")
    form = "step" if cost.steps_of_a_model(contestant.spec, question) else "whole"
    if (asked := (cell.spec, cell.implementation, cell.variant, small, seed, form)) not in _before:
        _before[asked] = values(contestant, small, "normal", seed, form)
    answer = _before[asked]
    if answer.outcome != OK:
        return answer
    told, got = contestant.costed("asked", question)
    found = at_work(contestant, question, 0, got)
    return replace(answer, values={**answer.values, **told}) if found.outcome == OK else found


def at_work(contestant: Contestant, question: Question, i: int, got: Mapping[str, Tensor]) -> Answer:
    """What was timed or weighed, sample i, against the reference in float64 on the same inputs, at the same sizes.

    By their digits: the budget, which is finer, is found at small sizes, by `values`; here it would take as many minutes as the
    code takes seconds."""
    spec, case = contestant.spec, question.case
    x = cost.inputs(spec, question, i)
    wrt = cost.wanted(spec, case, question.form)
    if cost.steps_of_a_model(spec, question):
        case = case.resized({"n": x.ids.shape[1]})
    exact = Bunch({name: t.double() if t.is_floating_point() else t for name, t in x.items()})
    if spec.defined:
        truth = _reference(spec, case, wrt)(exact)
    else:
        truth = contestant.answered(x, case.resized({}, dtype=torch.float64), [])
    if cost.steps_of_a_model(spec, question):
        truth = {"logits": truth["logits"][:, -cost.STEPS :]}
    if set(got) != set(truth) or any(got[name].shape != t.shape for name, t in truth.items()):
        return Answer(WRONG, {}, "  what was timed is not what was asked for")
    return by_the_digits(spec, case, truth, got)


def by_the_digits(spec: Spec, case: Case, truth: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> Answer:
    """Whether half the digits are right, a quarter where the spec jumps: of each row, or of a tenth of the largest."""
    share = digits_of(spec)
    budget = {name: _half_the_digits(tensor, case.dtype, 0.1, share) for name, tensor in truth.items()}
    # Gradients that cancel to nothing keep the rounding of those that do not.
    gradients = [name for name in truth if name.endswith(GRADIENT)]
    least = max((float(budget[name].max()) for name in gradients if budget[name].numel()), default=0.0)
    for name in gradients:
        budget[name] = budget[name].clamp(min=CANCELLED * least * (torch.finfo(case.dtype).eps / 2) ** share)
    found = verdict.judge(
        lambda look: (truth, budget),
        {"": got},
        verdict.axes_of(spec, case),
        f"{'half' if share == HALF else 'a quarter'} of the digits of {dtype_name(case.dtype)}",
    )
    return found.answer


def digits_of(spec: Spec) -> float:
    """The share of the digits that must be right where no budget is found."""
    return QUARTER if spec.costs and spec.costs.jumps else HALF


def apart(one: Tensor, other: Tensor, share: float) -> int | None:
    """The first place [... n] at which rows of float32 differ by more than such a share of their digits leaves; None: nowhere."""
    one, other = one.double().flatten(0, -2), other.double().flatten(0, -2)
    allowed = _half_the_digits(one, torch.float32, 0.1, share).square().mean(-1).sqrt()
    off = (one - other).square().mean(-1).sqrt() > allowed
    return int(off.nonzero()[0]) if off.any() else None


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
    case = case if spec.defined else case.resized({}, dtype=torch.float64)
    x = spec.inputs(case, "normal", seed, cotangents=True)
    check, words = spec.laws[name].check, (spec.name, case.name, name, seed)

    def by_contestant(inputs: Bunch, resized: Case, wrt: list[str]) -> Bunch:
        return contestant.answered(inputs, resized, wrt)

    def by_reference(inputs: Bunch, resized: Case, wrt: list[str]) -> Bunch:
        return Bunch({key: rounding.stored(t) for key, t in _reference(spec, resized, wrt)(inputs).items()})

    sides = paired(check(Run(spec, case, by_contestant, claimed), x, dice(*words)))
    got = _differences(sides)
    if not got or not all(t.numel() for t in got.values()):
        return Answer(WRONG, {}, f"the law {name} compared nothing")
    if spec.defined:
        of_reference: rounding.Function = lambda y: _differences(  # noqa: E731
            paired(check(Run(spec, case, by_reference, claimed), Bunch(y), dice(*words)))
        )
        truths = _truths(of_reference, x, case, seed)
    else:
        equal = {key: torch.zeros_like(difference) for key, difference in got.items()}
        budget = {key: FLOAT32_INSIDE * _size_of_rows(right) for key, (_, right) in sides.items()}
        truths = lambda look: (equal, budget)  # noqa: E731
    axes = {key: verdict.axes_of(spec, case).get(key.split()[0], ()) for key in got}
    allowance = _allowance(spec, case.dtype) if spec.defined else "what parts in float32 leave of a row in float64"
    found = verdict.judge(truths, {"": got}, axes, allowance, sides=True)
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


def _truths(function: rounding.Function, x: Mapping[str, Tensor], case: Case, seed: int) -> verdict.Truths:
    """What a function computes, and its rounding budget on these inputs, by the number of the look."""
    here = {name: tensor.cpu() for name, tensor in x.items()}
    samples = (rounding.SAMPLES, rounding.SAMPLES, 4 * rounding.SAMPLES)
    return lambda look: rounding.truth_and_budget(
        function, here, case.dtype, seed=seed, samples=samples[look], intermediates=look > 0
    )


def _half_the_digits(tensor: Tensor, dtype: torch.dtype, of_the_largest: float = 0.0, share: float = HALF) -> Tensor:
    """For each element the root mean square of its row, times the square root of the rounding unit (or the power that keeps such
    a share of the digits); no row counts as smaller than such a part of the largest."""
    row = _size_of_rows(tensor)
    row = row.clamp(min=of_the_largest * float(row.max())) if row.numel() else row
    return row * (torch.finfo(dtype).eps / 2) ** share


def _size_of_rows(tensor: Tensor) -> Tensor:
    """For each element the root mean square of its row."""
    return tensor.double().square().mean(-1, keepdim=True).sqrt().expand(tensor.shape)


def _allowance(spec: Spec, dtype: torch.dtype) -> str:
    return f"rounding budget of {dtype_name(dtype)} on this input" if spec.defined else f"half the digits of {dtype_name(dtype)}"


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


def _differences(sides: Mapping[str, tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    return {name: one.double() - other.double() for name, (one, other) in sides.items()}
