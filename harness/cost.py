"""What one question costs: calls with fresh inputs, in each form, timed or weighed beside the implementation, in its process.

    forward     all of the length at once, without gradients (of a model: prefill)
    training    forward and backward, of all inputs and parameters that have a gradient
    step        one step of decoding after that length: of a function by its case, of a model by its step form

What was timed is kept for the judge: the outputs of a sample, drawn with dice of the judge's, and of the one before it (so that
what is wrong every other time is wrong), as they stood when the clock stopped. Nothing is remembered by where inputs lie: those
of all samples lie in the same memory.
"""

import copy
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness import Unsupported, asking, clock, memory
from harness.contract import ContractError
from harness.spec import GRADIENT, Bunch, Case, Spec

if TYPE_CHECKING:
    from harness.implementation import Implementation

FORMS = ("forward", "training", "step")
STEPS = 16  # of a model's generation, that are timed as one call
LEAST, MOST = 5, 40  # samples
ENOUGH_S = 0.25  # of samples, once there are LEAST
FEWEST_S = 2.0  # of one sample: slower ones are asked LEAST_SLOW times
LEAST_SLOW = 3
SEEN, SEEN_BYTES = 3, 2**21  # times what is counted, and bytes besides, that honest code is seen to take: see `memory.resident`
FEW = 4096  # bytes that come from elsewhere, such as an index of numpy's, and are not held against anybody


@dataclass(frozen=True)
class Question:
    """What is asked: a case at its length in one of the forms, and the seed of its inputs."""

    case: Case
    form: str
    length: int
    seed: int
    threads: int = 1


@dataclass(frozen=True)
class Call:
    """One question, ready to be put; and its inputs by name, as they were drawn and as they lie where the call reads them."""

    run: Callable[[], Any]
    given: Mapping[str, tuple[Tensor, Tensor]]
    besides: Sequence[Tensor] = ()  # parameters, buffers and the state before a step, which the call reads too

    def __call__(self) -> Any:
        return self.run()

    @property
    def known(self) -> list[Tensor]:
        """All that it reads and did not make."""
        return [*(placed for _, placed in self.given.values()), *self.besides]

    def check_inputs(self) -> None:
        """ContractError where they are no longer what was drawn."""
        for name, (drawn, placed) in self.given.items():
            if not torch.equal(drawn, placed.detach().cpu()):
                raise ContractError(f"at the sizes that are timed it writes into its input {name}")


def costed(contestant: "Implementation", kind: str, question: Question, dice: int = 0) -> tuple[dict[str, Any], Bunch]:
    """Values, and the answer that goes with them; `kind` is `asked` (the answer to sample 0 alone), `timed` or `weighed`."""
    with clock.on_threads(question.threads), asking.settings_kept():
        match kind:
            case "asked":
                told = asked(contestant, question)
            case "timed":
                told = timed(contestant, question, dice)
            case "weighed":
                told = weighed(contestant, question)
            case _:
                raise ValueError(f"nothing is {kind!r} here")
        asking.check_instruments()
    return told


def asked(contestant: "Implementation", question: Question) -> tuple[dict[str, Any], Bunch]:
    """Seconds of what it took to prepare, and of the first call; and its answer."""
    prepare_s = clock.seconds(lambda: contestant.prepare(question.case), question.case.device)
    call = calls(contestant, question)(0)
    first_s, answer = clock.seconds_and_result(call, question.case.device)
    return {"prepare_s": prepare_s, "first_s": first_s / _calls_in_one(contestant, question)}, kept(contestant, question, answer)


def timed(contestant: "Implementation", question: Question, dice: int) -> tuple[dict[str, Any], Bunch]:
    """Seconds of each sample; the answers of two that follow each other, each pair being as likely as any other, to be read by
    `of_sample`, and the number of the second. `lost_s`, a median, passes around a call and is none of its seconds; `at_once` says
    on how many threads of this process it works, in the mean."""
    began, rolled = clock.now(), random.Random(dice)
    device = question.case.device
    make = calls(contestant, question)
    warmups = clock.warm(lambda: make(0), device)
    least = LEAST if min(warmups) < FEWEST_S else LEAST_SLOW
    samples, lost, worked = list[float](), list[float](), 0.0
    answer, answered, ends = Bunch(), Bunch(), False
    turns = [memory.turns()]
    while len(samples) < least or (sum(samples) < ENOUGH_S and len(samples) < MOST):
        call = make(1 + len(samples))
        before_s, here = clock.worked(), clock.now()
        took, given = clock.seconds_and_result(call, device)
        lost.append(clock.now() - here - took)
        worked += clock.worked() - before_s
        samples.append(took)
        turns.append(memory.turns())
        begins = rolled.randrange(len(samples)) == 0  # the pair for the judge; the next sample ends it
        if begins or ends:
            before, answer = answer, kept(contestant, question, given)
            call.check_inputs()
        if ends:
            checked, pair = len(samples), (before, answer)
            answered = Bunch({f"{checked - 1 + i}|{name}": t for i, of in enumerate(pair) for name, t in of.items()})
        ends = begins
        del given, call
    _check_alone(turns)
    per = _calls_in_one(contestant, question)
    values = {"seconds": [float(f"{s / per:.5g}") for s in samples], "checked": checked, "whole_s": clock.now() - began}
    around = {"lost_s": clock.middle(lost) / per, "at_once": worked / sum(samples)}
    return values | around | {"steady": clock.steady(warmups)}, answered


def of_sample(i: int, answered: Mapping[str, Tensor]) -> Bunch:
    """The answer of sample i, among those of several."""
    return Bunch({name.removeprefix(f"{i}|"): tensor for name, tensor in answered.items() if name.startswith(f"{i}|")})


def weighed(contestant: "Implementation", question: Question) -> tuple[dict[str, Any], Bunch]:
    """Bytes at the peak of a call above its inputs, those kept between calls among them, bytes that go from step to step; of a
    model what it keeps; and the answer."""
    spec, case = contestant.spec, question.case
    make = calls(contestant, question)
    clock.seconds(make(0), case.device)  # what is made once is made now, and seen by `touched` where it is kept
    call, answers = make(1), list[Any]()
    peak = memory.peak(lambda: answers.append(call()), case.device)
    answered = kept(contestant, question, answers[0])
    call.check_inputs()
    held = _held(call, answers.pop(), make(2), peak)
    if case.device == "cpu":
        turns = [memory.turns()]
        in_python = memory.in_python(make(3))
        turns.append(memory.turns())
        resident = memory.resident(make(4))
        if _too_much(resident, peak):  # a process that others press may grow by more than it takes
            resident = min(resident, memory.resident(make(5)))
        turns.append(memory.turns())
        if _too_much(seen := max(in_python, resident), peak):
            raise _uncounted(seen - peak)
        _check_alone(turns)
    values: dict[str, Any] = {"peak_bytes": peak + held, "held_bytes": held, "checked": 1}
    if question.form == "step":
        values["state_bytes"] = _carried(contestant, question)
    if spec.of_modules:
        model = contestant.model(_given(contestant, question), case)
        values["parameters"] = sum(p.numel() for p in model.parameters())
        values["weights_bytes"] = memory.kept_alive(memory.of_module(model))
        if bits := bits_per_weight(model):
            values["bits_per_weight"] = bits
    return values, answered


def _held(call: Call, answer: Any, again: Call, peak: int) -> int:
    """Bytes that are kept from call to call, as the call `again` touches them; Unsupported where the peak misses the answer."""
    seen = memory.touched(again, [*call.known, *again.known])
    made = [tensor for tensor in memory.tensors(answer) if tensor.untyped_storage().data_ptr() not in seen.kept]
    own = memory.kept_alive(made, call.known)
    if (missed := max(own - peak, seen.foreign - FEW)) > 0:
        raise _uncounted(missed)
    return sum(seen.kept.values())


def _too_much(seen: int, peak: int) -> bool:
    """Whether a call is seen to take far more than is counted, by Python's allocators or by pages of the process."""
    return seen > SEEN * peak + SEEN_BYTES


def _check_alone(turns: Sequence[Mapping[str, Any]]) -> None:
    """Unsupported where other processes worked in every call, as their turns between calls tell; in one, it may be by chance."""
    if all(one != other for one, other in pairwise(turns)):
        raise Unsupported("it works in other processes, where neither time nor memory is counted")


def _uncounted(missed: int) -> Unsupported:
    return Unsupported(
        f"its memory cannot be counted: it is taken past torch's allocator or in another thread ({missed:,} bytes at least)"
    )


def bits_per_weight(model: torch.nn.Module) -> float | None:
    """Bits in which a model keeps a number of the matrices of its blocks, with the scales, tables and copies that lie beside it.

    Embedding, head, norms and biases are not counted: what quantizes weights leaves them as they are. None where there are no
    blocks with matrices."""
    kept, numbers = list[Tensor](), 0
    for name, part in model.named_modules():
        matrices = [p for p in part.parameters(recurse=False) if p.dim() > 1]
        if name.startswith("blocks.") and matrices:
            vectors = {id(p) for p in part.parameters(recurse=False) if p.dim() < 2}
            kept += [tensor for tensor in memory.of_module(part, recurse=False) if id(tensor) not in vectors]
            numbers += sum(p.numel() for p in matrices)
    return 8 * memory.kept_alive(kept) / numbers if numbers else None


def calls(contestant: "Implementation", question: Question) -> Callable[[int], Call]:
    """`make(i)` gives the call of sample i, with inputs of its own; of a model the parameters are the same for all.

    Make a call when the one before is done: its inputs come to lie where those of the other lay."""
    if steps_of_a_model(contestant.spec, question):
        return _generating(contestant, question)
    spec, case = contestant.spec, question.case
    wrt, training = wanted(spec, case, question.form), question.form == "training"
    run: Any = contestant.prepare(case)
    parameters: dict[str, Tensor] = {}
    besides: list[Tensor] = []
    if spec.of_modules:
        run = contestant.model(_given(contestant, question), case)
        parameters = dict(run.named_parameters())
        besides = [*run.parameters(), *run.buffers()]
    given = [t for t in spec.given(case) if "." not in t.name]
    cotangents = [t.name + GRADIENT for t in spec.contract.outputs] if training else []
    first = inputs(spec, question, 0)
    placed = {name: first[name].clone().to(case.device) for name in [t.name for t in given] + cotangents}
    leaves = [placed[name].requires_grad_() if name in placed else parameters[name] for name in wrt]
    leaves = leaves if spec.defined else list(parameters.values())  # whatever they are called
    required = [placed[t.name] for t in given if not t.optional]
    optional = {t.name: placed[t.name] for t in given if t.optional}

    def call() -> Any:
        if not training:
            with torch.no_grad():
                return run(*required, **optional), ()
        answer = run(*required, **optional)
        attached = [(one, placed[name]) for one, name in zip(_listed(spec, answer), cotangents, strict=True) if one.requires_grad]
        if not attached:
            raise Unsupported("claims gradients, but no output is connected to its inputs")
        found = torch.autograd.grad([one for one, _ in attached], leaves, [c for _, c in attached], allow_unused=True)
        return answer, found

    def make(i: int) -> Call:
        x = inputs(spec, question, i)
        for name, tensor in placed.items():
            tensor.detach().copy_(x[name])
        return Call(call, {name: (x[name], tensor) for name, tensor in placed.items()}, besides)

    return make


def inputs(spec: Spec, question: Question, i: int) -> Bunch:
    """The inputs of sample i; what comes with a model, its parameters and the text before a step, is that of every sample."""
    if not spec.of_modules:
        return _drawn(spec, question, i)
    case, first = question.case, _drawn(spec, question, 0)
    rng = torch.Generator().manual_seed(_seed(question, i))
    if question.form == "step":
        more = torch.randint(0, case.v, (case.b, STEPS), generator=rng)
        return Bunch({**first, "ids": torch.cat([first.ids, more], 1)})
    return Bunch({**first, "ids": torch.randint(0, case.v, first.ids.shape, generator=rng)})


def _drawn(spec: Spec, question: Question, i: int) -> Bunch:
    # Where a spec jumps, no family keeps so many numbers clear of every jump.
    family = "" if spec.costs and spec.costs.jumps else "normal"
    return spec.inputs(question.case, family, _seed(question, i), cotangents=question.form == "training")


def wanted(spec: Spec, case: Case, form: str) -> list[str]:
    """Inputs and parameters whose gradients are asked for."""
    return spec.differentiable(case) if form == "training" else []


def steps_of_a_model(spec: Spec, question: Question) -> bool:
    return spec.of_modules and question.form == "step"


def kept(contestant: "Implementation", question: Question, answer: Any) -> Bunch:
    """Copies of outputs and gradients by name, as they are now; ContractError where outputs are not what the contract says."""
    spec = contestant.spec
    if steps_of_a_model(spec, question):
        return Bunch(logits=answer.detach().cpu().clone())
    outputs, gradients = answer
    named: dict[str, Tensor] = dict(contestant.named(outputs, question.case))
    if names := wanted(spec, question.case, question.form):
        found = {name + GRADIENT: g for name, g in zip(names, gradients, strict=True) if g is not None}
        if unlike := [f"{name} is a {type(g).__qualname__}" for name, g in found.items() if type(g) is not Tensor]:
            raise ContractError(f"{unlike[0]}, not a torch.Tensor")
        named |= found
    return Bunch({name: tensor.detach().cpu().clone() for name, tensor in named.items()})


def _calls_in_one(contestant: "Implementation", question: Question) -> int:
    """How many steps are timed together."""
    return STEPS if steps_of_a_model(contestant.spec, question) else 1


def _generating(contestant: "Implementation", question: Question) -> Callable[[int], Call]:
    """Calls of STEPS steps each, from copies of the state after the text of sample 0."""
    case = question.case
    model, before = _after_the_text(contestant, question)

    def make(i: int) -> Call:
        drawn = inputs(contestant.spec, question, i).ids[:, -STEPS:]
        ids, state = drawn.clone().to(case.device), copy.deepcopy(before)

        @torch.no_grad()
        def call() -> Tensor:
            now, logits = state, []
            for column in ids.unbind(1):
                one, now = model.step(column, now)
                if type(one) is not Tensor or one.shape != (case.b, case.v):
                    raise ContractError(f"a step gives {type(one).__name__}, but should give logits[b v], a torch.Tensor")
                logits.append(one)
            return torch.stack(logits, 1)

        return Call(call, {"ids": (drawn, ids)}, [*model.parameters(), *model.buffers(), *memory.tensors(state)])

    return make


@torch.no_grad()
def _after_the_text(contestant: "Implementation", question: Question) -> tuple[Any, Any]:
    """The model and its state when it has read the text, token by token."""
    x = _given(contestant, question)
    model: Any = contestant.model(x, question.case)
    asking.check_stepwise(model)
    return model, _read(model, x.ids.to(question.case.device))


def _read(model: Any, ids: Tensor) -> Any:
    """The state of a model when it has read a text."""
    state = None
    for column in ids.unbind(1):
        _, state = model.step(column, state)
    return state


def _carried(contestant: "Implementation", question: Question) -> int:
    """Bytes that a step hands to the next: a model's state and what it keeps of the text beside it, or what the spec says that is
    carried."""
    spec = contestant.spec
    if spec.of_modules:
        model, state = _after_the_text(contestant, question)
        own = memory.kept_alive(state, besides=[*model.parameters(), *model.buffers()])
        return own + _beside(model, state, _given(contestant, question).ids.to(question.case.device))
    call = calls(contestant, question)(1)
    outputs = contestant.named(call()[0], question.case)
    carried = spec.costs.carried if spec.costs else ()
    given = {name: placed for name, (_, placed) in call.given.items()}
    return sum(t.numel() * t.element_size() for t in ({**given, **outputs}[name] for name in carried))


@torch.no_grad()
def _beside(model: Any, state: Any, ids: Tensor) -> int:
    """Bytes that a step reads past its state after this text alone: tables and workspaces are read after others too."""
    other = _read(model, ids.flip(1))
    known = [*model.parameters(), *model.buffers(), *memory.tensors([state, other])]
    own, of_other = (memory.touched(partial(model.step, ids[:, 0], of), known).kept for of in (state, other))
    return sum(size for place, size in own.items() if place not in of_other)


def _given(contestant: "Implementation", question: Question) -> Bunch:
    return _drawn(contestant.spec, question, 0)


def _seed(question: Question, i: int) -> int:
    return random.Random(f"{question.seed} {i}").randrange(2**31)


def _listed(spec: Spec, answer: Any) -> list[Tensor]:
    """Outputs in the order of the contract."""
    if isinstance(answer, Mapping):
        return [answer[t.name] for t in spec.contract.outputs]
    return list(answer) if isinstance(answer, tuple | list) else [answer]
