"""How a question is put to an implementation, beside it in its own process: in memory that tells nothing, more ways than one.

Nothing is judged here but the manners: it may not write into its inputs, return them, use memory twice or replace a clock.
"""

import copy
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from harness import Unsupported, clock, memory
from harness.contract import ContractError
from harness.nn.decoder import Block
from harness.spec import DTYPES, Bunch, Case

if TYPE_CHECKING:
    from harness.implementation import Implementation

# How often what is declared deterministic is asked again.
REPEATS = 3
# What measures and compares; code under test has no business with it.
INSTRUMENTS = [(time, name) for name in ("time", "perf_counter", "perf_counter_ns", "monotonic", "process_time", "sleep")] + [
    (torch, name) for name in ("equal", "allclose", "isclose", "empty", "empty_like", "use_deterministic_algorithms")
]
INSTRUMENTS += [(clock, name) for name in ("now", "worked", "seconds", "seconds_and_result", "warm")] + [(memory, "peak")]
CPU = torch.device("cpu")
BY_A_COPY = "every other step is made by a copy of the model: all that one step hands on must be in its state"
# What holds for all of torch in a process, by the words for it: how it is read, and set.
SETTINGS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "a number of threads of": (torch.get_num_threads, torch.set_num_threads),
    "a default device of": (torch.get_default_device, lambda device: torch.set_default_device(None if device == CPU else device)),
    "a default dtype of": (torch.get_default_dtype, torch.set_default_dtype),
    "gradients enabled:": (torch.is_grad_enabled, torch.set_grad_enabled),
    "deterministic algorithms:": (torch.are_deterministic_algorithms_enabled, torch._C._set_deterministic_algorithms),
}
_GENUINE = [getattr(module, name) for module, name in INSTRUMENTS]


def ways(contestant: "Implementation", case: Case, family: str, seed: int, form: str) -> tuple[dict[str, Bunch], str]:
    """The answers by the way of asking (the plain one has no name), and a note where one way was refused.

    Each must be the right answer. ContractError where the manners are bad.
    """
    spec = contestant.spec
    wrt = spec.differentiable(case) if contestant.gradients and form == "whole" else []
    drawn = spec.inputs(case, family, seed, cotangents=bool(wrt))
    others = spec.inputs(case, family, seed + 1, cotangents=bool(wrt))
    if form == "step":
        # One token with other weights first: nothing made of them may be remembered.
        first = Bunch({**others, "ids": others.ids[:, :1]})
        _step_by_step(contestant, _placed(first, case), case)
        return {"": kept(_step_by_step(contestant, _placed(drawn, case), case))}, ""
    got, held, refused = {}, [], ""
    for way, x, answer in _each_way(contestant, case, family, seed, drawn, others, wrt):
        if isinstance(answer, Exception):
            refused = f"takes contiguous inputs only: where they are strided it raises {type(answer).__name__}: {answer}"[:300]
            continue
        got[way] = kept(answer)
        held.append((answer, got[way]))
        _check_manners(drawn, {**x, **_weights(contestant, case)}, answer)
    for answer, before in held:
        if changed_later := [name for name in before if not _same(answer[name].detach().cpu(), before[name])]:
            raise ContractError(f"its answer {changed_later[0]} changes when it is called again: it uses the memory twice")
    # One family is enough: races do not depend on values.
    if contestant.deterministic and family == "normal":
        _check_repeats(contestant, case, drawn, wrt)
    return got, refused


def answered(contestant: "Implementation", x: Mapping[str, Tensor], case: Case, wrt: list[str]) -> Bunch:
    """Copies of the outputs, and of the gradients that are wanted, for inputs placed on the device."""
    with torch.set_grad_enabled(bool(wrt)):
        return kept(_asked(contestant, Bunch({name: t.to(case.device).contiguous() for name, t in x.items()}), case, wrt))


def kept(answer: Bunch) -> Bunch:
    """A copy that no later call can write into, whose bytes lie one after another whatever strides it came with."""
    whole = torch.contiguous_format
    return Bunch({name: tensor.detach().cpu().clone(memory_format=whole) for name, tensor in answer.items()})


def _each_way(
    contestant: "Implementation", case: Case, family: str, seed: int, drawn: Bunch, others: Bunch, wrt: list[str]
) -> Iterator[tuple[str, Bunch, Any]]:
    """The ways of asking, each with the inputs as given and the answer, or the error of one that refuses strided inputs.

    Plainly, after another case, and in memory that held another question just before (nothing may be remembered by address
    or shape); with strided inputs, new memory poisoned, and gradients of some inputs only; without gradients; as it learns.
    """
    x = _placed(others, case)
    if contestant.spec.of_modules:
        _ask_at_another_length(contestant, x, case, family)
    else:
        _ask_another_case(contestant, case, family, seed)
    _asked(contestant, x, case, wrt)
    for name, tensor in drawn.items():
        x[name].detach().copy_(tensor)
    without = None
    if wrt and contestant.spec.of_modules:
        # Before the way back is asked with these weights: what it kept of the weights before is wrong now.
        with torch.no_grad():
            without = contestant.outputs(x, case)
    yield "", x, _asked(contestant, x, case, wrt)
    number = zlib.crc32(f"{case.name} {family}".encode())
    # Of a model every other gradient; which, the question decides, so that each is asked for with and without the others.
    some = (wrt[number % 2 :: 2] or wrt) if contestant.spec.of_modules else _some_of(wrt, number)
    layout = {name: LAYOUTS[zlib.crc32(f"{case.name} {family} {name}".encode()) % len(LAYOUTS)] for name in drawn}
    strided = Bunch({name: layout[name](tensor) if tensor.dim() else tensor for name, tensor in _placed(drawn, case).items()})
    try:
        with _poisoned_memory():
            answer: Any = _asked(contestant, strided, case, some)
    except ContractError:
        raise  # a wrong shape or dtype is no refusal
    except (RuntimeError, ValueError, AssertionError, TypeError, Unsupported) as error:
        if isinstance(error, torch.OutOfMemoryError) or "memory" in str(error):
            raise
        answer = error
    yield "with strided inputs", strided, answer
    if wrt:
        with torch.no_grad():
            answer = without or contestant.outputs(x, case)
        yield "without gradients", x, answer
        yield from _as_it_learns(contestant, case, family, x, others, wrt)


def _as_it_learns(
    contestant: "Implementation", case: Case, family: str, x: Bunch, others: Bunch, wrt: list[str]
) -> Iterator[tuple[str, Bunch, Any]]:
    """A model in training; an operator with another question before its backward pass, as in a model of two layers."""
    if contestant.spec.of_modules:
        with contestant.training():
            dice = _dice(case.device)
            answer = _asked(contestant, x, case, wrt)
            drawn_again = not torch.equal(dice, _dice(case.device))
        # Who throws dice in training, for dropout, is no function of the inputs there.
        if not drawn_again:
            yield "while training", x, answer
    elif family == "normal":  # what is kept for the way back does not depend on values
        again = Bunch({name: tensor.requires_grad_(name in wrt) for name, tensor in _placed(others, case).items()})
        between = lambda: contestant.outputs(again, case)  # noqa: E731
        yield "where it is called again before it goes back", x, contestant.outputs_and_gradients(x, case, wrt, between)
        try:
            answer = contestant.outputs_and_gradients(x, case, wrt, times=2)
        except Exception:
            return  # who keeps nothing for a second time says so, by whatever error
        yield "where it goes back twice", x, answer


def _some_of(names: list[str], number: int) -> list[str]:
    """One of them alone, or all but one: nothing else is frozen in training, or everything else."""
    alone, place = number % 2, number // 2 % max(1, len(names))
    return [name for i, name in enumerate(names) if (i == place) == bool(alone)] or names


def _ask_another_case(contestant: "Implementation", case: Case, family: str, seed: int) -> None:
    """Ask a case of the same sizes but with other options, where there is one, in another dtype, where it takes one: masks and
    tables that are remembered by their sizes alone are then of the wrong kind. What comes of it has cells of its own."""
    spec = contestant.spec
    dtype = next((DTYPES[name] for name in reversed(contestant.dtypes) if DTYPES[name] != case.dtype), case.dtype)
    cases = [spec.case(name, dtype, case.device) for name in spec.cases]
    alike = [other for other in cases if all(other.values[axis] == case.values[axis] for axis in spec.contract.axes)]
    alike = [other for other in alike if dict(other.values) != dict(case.values)] or [case.resized({}, dtype=dtype)]
    other = alike[zlib.crc32(f"{case.name} {family}".encode()) % len(alike)]
    with suppress(Exception):
        contestant.outputs(_placed(spec.inputs(other, "normal", seed), other), other)


def _ask_at_another_length(contestant: "Implementation", x: Bunch, case: Case, family: str) -> None:
    """Ask a model of fewer rows, half as long or twice: it is one module at every length, and what it keeps of the first length,
    of the longest, or of so many rows, is then wrong. What comes of it has cells of its own."""
    rows, half = (-(-size // 2) for size in x.ids.shape)
    longer = zlib.crc32(f"{case.name} {family}".encode()) % 2
    ids = x.ids[:rows].repeat(1, 2) if longer else x.ids[:rows, :half]
    with suppress(Exception), torch.no_grad():
        contestant.model(x, case)(ids)


def _dice(device: str) -> Tensor:
    """Where the random numbers of a device stand."""
    return torch.get_rng_state() if device == "cpu" else torch.cuda.get_rng_state()


def _asked(contestant: "Implementation", x: Bunch, case: Case, wrt: list[str]) -> Bunch:
    return contestant.outputs_and_gradients(x, case, wrt) if wrt else contestant.outputs(x, case)


def _weights(contestant: "Implementation", case: Case) -> dict[str, Tensor]:
    """What a model learns, as it stands in the model now: given as inputs are."""
    if not contestant.spec.parameters:
        return {}
    learned = contestant.spec.differentiable(case)
    return {name: weight for name, weight in contestant.prepare(case).named_parameters() if name in learned}


def _check_manners(drawn: Bunch, x: Mapping[str, Tensor], answer: Bunch) -> None:
    if written := [name for name in drawn if not _same(drawn[name], x[name].detach().cpu())]:
        raise ContractError(f"it writes into its input {written[0]}")
    given = {tensor.untyped_storage().data_ptr(): name for name, tensor in x.items() if tensor.numel()}
    for name, tensor in answer.items():
        # The gradient of a sum is its cotangent, and autograd gives the very tensor.
        if "." not in name and (of := given.get(tensor.untyped_storage().data_ptr())):
            raise ContractError(f"its answer {name} is a view of its input {of}: who writes into the one changes the other")
    check_instruments()


@contextmanager
def settings_kept() -> Iterator[None]:
    """ContractError where what is called within changes a setting of torch's; all are put back."""
    before = {name: get() for name, (get, _) in SETTINGS.items()}
    try:
        yield
    finally:
        after = {name: get() for name, (get, _) in SETTINGS.items()}
        if changed := [name for name in before if before[name] != after[name]]:
            for name in changed:
                SETTINGS[name][1](before[name])
            name = changed[0]
            raise ContractError(f"it leaves torch with {name} {after[name]} where it was given {before[name]}")


def check_instruments() -> None:
    """ContractError where something that measures or compares is no longer what it was."""
    for (module, name), genuine in zip(INSTRUMENTS, _GENUINE, strict=True):
        if getattr(module, name) is not genuine:
            raise ContractError(f"it replaces {module.__name__}.{name}")


def _check_repeats(contestant: "Implementation", case: Case, drawn: Bunch, wrt: list[str]) -> None:
    """What is declared deterministic gives the same bits when the same question is put again."""
    first = kept(_asked(contestant, _placed(drawn, case), case, wrt))
    for _ in range(REPEATS):
        again = kept(_asked(contestant, _placed(drawn, case), case, wrt))
        for name, tensor in first.items():
            if unlike := int((_bytes(tensor) != _bytes(again[name])).any(-1).sum()):
                raise ContractError(
                    f"it declares deterministic = True, but {name} is not the same when it is asked again: "
                    f"{unlike} of {tensor.numel()} elements have other bits"
                )


def _step_by_step(contestant: "Implementation", x: Bunch, case: Case) -> Bunch:
    """Logits [b n v] of a model that is given one token at a time, in turn with those of the same text backwards."""
    with saying_how_to_end(x.ids, case.values.get("t")):
        return Bunch(logits=stepped_in_turn(contestant.model(x, case), x.ids, x.ids.flip(1)))


@contextmanager
def saying_how_to_end(ids: Tensor | None, t: int | None) -> Iterator[None]:
    """An error over texts longer than t, the length of training, is told with what to raise in its place."""
    try:
        yield
    except Exception as error:
        if ids is not None and t and ids.shape[1] > t and not isinstance(error, Unsupported):
            error.add_note(f"with more than t = {t} tokens: a model that cannot read so many raises harness.Unsupported")
        raise


@torch.no_grad()
def stepped_in_turn(model: Any, ids: Tensor, others: Tensor) -> Tensor:
    """What a model says step by step of ids[b n], [b n v], while it reads others[b n] in turn, each with a state of its own.

    So what goes from step to step past the state is of the wrong text. Every other step is made by a copy of the model, with the
    same weights, which does not have what the model keeps beside the state. Unsupported where it has no step form.
    """
    check_stepwise(model)
    logits: list[Tensor] = []
    state = of_others = turned = None
    for tokens, other in zip(ids.unbind(1), others.unbind(1), strict=True):
        try:
            said, state = model.step(tokens, state)
        except (LookupError, AttributeError) as error:
            error.add_note(BY_A_COPY)
            raise
        logits.append(said)
        _, of_others = model.step(other, of_others)
        model, turned = turned or _copied(model), model
    return torch.stack(logits, 1)


def _copied(model: Any) -> Any:
    """A copy of a model, buffers and all, that has the same weights; itself where it cannot be copied."""
    with suppress(Exception):
        return copy.deepcopy(model, {id(weight): weight for weight in model.parameters()})
    return model


def check_stepwise(model: Any) -> None:
    """Unsupported where a model has no step form."""
    if not hasattr(model, "step"):
        raise Unsupported("has no step form: its module has no method step(ids[b], state) -> (logits[b v], state)")
    # A block of one's own may take its mixer a step further by any name.
    if not all(hasattr(part.mixer, "step") for part in model.modules() if isinstance(part, Block)):
        raise Unsupported("has no step form: its mixer has no method step(x[b d], state) -> (y[b d], state)")


def _placed(x: Bunch, case: Case) -> Bunch:
    return Bunch({name: tensor.clone().to(case.device) for name, tensor in x.items()})


def _apart(tensor: Tensor) -> Tensor:
    """The same values with gaps between them, and the first two axes exchanged in memory."""
    return _roomy(tensor)[..., ::2].copy_(tensor)


def _of_a_wider_one(tensor: Tensor) -> Tensor:
    """The same values as the second half of a tensor twice as wide, as of keys and values in one: rows are whole, but apart."""
    return _roomy(tensor)[..., tensor.shape[-1] :].copy_(tensor)


def _roomy(tensor: Tensor) -> Tensor:
    roomy = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), 7, dtype=tensor.dtype, device=tensor.device)
    return roomy.transpose(0, 1).contiguous().transpose(0, 1) if tensor.dim() > 2 else roomy


def _transposed(tensor: Tensor) -> Tensor:
    """The same values, whole rows without gaps, but in another order: heads beside each other at each token."""
    if tensor.dim() < 3:
        return _of_a_wider_one(tensor)
    return tensor.transpose(-3, -2).contiguous().transpose(-3, -2)


# Each input has one of its own: code that copies what is strided along the last axis must read the others by their strides.
LAYOUTS = (_apart, _of_a_wider_one, _transposed)


@contextmanager
def _poisoned_memory() -> Iterator[None]:
    """New memory is NaN: what is returned unwritten shows. (This is torch's own fill of uninitialized memory.)"""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    # torch.use_deterministic_algorithms does this, and imports the whole compiler, a second, to tell it.
    torch._C._set_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch._C._set_deterministic_algorithms(before[0], warn_only=before[1])


def _same(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one.nan_to_num(), other.nan_to_num())


def _bytes(x: Tensor) -> Tensor:
    """The bytes of each element."""
    return x.reshape(-1, 1).contiguous().view(torch.uint8)
