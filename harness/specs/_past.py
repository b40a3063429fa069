"""Laws of every spec with a past: however a sequence is cut, its parts, each given the state before it, make the whole.

They hold for outputs, final states and gradients: those of the inputs, of the initial state, and of what all steps share.
What is a sequence, a state or shared is read off the contract: a sequence has the axis n, a state comes out as `state...` and
went in as `past...`.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor

from harness.contract import Contract
from harness.spec import GRADIENT, Bunch, Spec

TIME, BATCH = "n", "b"
TILES = (16, 32, 64, 128)
# The longest case that is taken step by step, and the longest that is cut at all: their budgets take seconds.
STEPS, LONGEST = 64, 200
Sides = tuple[dict[str, Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Past:
    """What a contract says about time: which tensors run along it, which state becomes which, and what rows and steps share."""

    contract: Contract

    @property
    def sequences(self) -> dict[str, int]:
        """The time axis of each input that has one."""
        return {tensor.name: tensor.axes.index(TIME) for tensor in self.contract.inputs if TIME in tensor.axes}

    @property
    def results(self) -> dict[str, int]:
        """The time axis of each output that has one."""
        return {tensor.name: tensor.axes.index(TIME) for tensor in self.contract.outputs if TIME in tensor.axes}

    @property
    def states(self) -> dict[str, str]:
        """The final state that each initial one becomes."""
        names = [tensor.name for tensor in self.contract.inputs if tensor.name.startswith("past")]
        return {name: name.replace("past", "state", 1) for name in names}

    @property
    def shared(self) -> list[str]:
        """Inputs without a batch axis: every row and every step has the same."""
        return [tensor.name for tensor in self.contract.inputs if BATCH not in tensor.axes]

    def length(self, x: Bunch) -> int:
        name, axis = next(iter(self.sequences.items()))
        return x[name].shape[axis]

    def part(self, x: Bunch, first: int, last: int) -> dict[str, Tensor]:
        """The steps first ... last - 1 of sequences, and of the cotangents of outputs."""
        timed = {**self.sequences, **{name + GRADIENT: axis for name, axis in self.results.items()}}
        return {name: x[name].narrow(axis, first, last - first) for name, axis in timed.items()}

    def in_parts(self, run: Any, x: Bunch, cuts: list[int]) -> Bunch:
        """Outputs, final state and gradients of a run in parts that begin at the cuts.

        States go forward from part to part; then the gradients of initial states go back as those of the final states before.
        """
        bounds = [0, *cuts, self.length(x)]
        parts = [self.part(x, first, last) for first, last in pairwise(bounds)]
        before = [{name: x[name] for name in self.states}]
        for part in parts[:-1]:
            found = run(x, **part, **before[-1])
            before.append({past: found[state] for past, state in self.states.items()})
        after = {state + GRADIENT: x[state + GRADIENT] for state in self.states.values()}
        answers: list[Bunch] = []
        for part, state in zip(reversed(parts), reversed(before), strict=True):
            answer = run.gradients(x, **part, **state, **after)
            after = {new + GRADIENT: answer[old + GRADIENT] for old, new in self.states.items() if old + GRADIENT in answer}
            answers.insert(0, answer)
        return Bunch(self._joined(answers))

    def otherwise_from(self, x: Bunch, now: int) -> dict[str, Tensor]:
        """The sequences with another future."""
        return {name: _from(now, x[name], -9 * x[name].flip(axis), axis) for name, axis in self.sequences.items()}

    def unread_from(self, x: Bunch, now: int) -> dict[str, Tensor]:
        """The cotangents of a reader of the outputs before `now`, who does not look at the final state either."""
        names = {tensor.name + GRADIENT: tensor.name for tensor in self.contract.outputs}
        nothing = {name: torch.zeros_like(x[name]) for name in names}
        return nothing | {
            name: _from(now, x[name], nothing[name], self.results[of]) for name, of in names.items() if of in self.results
        }

    def until(self, answer: Bunch, now: int) -> Bunch:
        """What the steps 0 ... now - 1 returned, and the gradients: all but the final state."""
        timed = {**self.results, **{name + GRADIENT: axis for name, axis in self.sequences.items()}}
        kept = {name: tensor for name, tensor in answer.items() if name not in self.states.values()}
        return Bunch({name: tensor.narrow(timed[name], 0, now) if name in timed else tensor for name, tensor in kept.items()})

    def _joined(self, answers: list[Bunch]) -> Iterator[tuple[str, Tensor]]:
        """Parts, one after another: sequences end to end, the final state of the last, the past's gradient of the first."""
        timed = {**self.results, **{name + GRADIENT: axis for name, axis in self.sequences.items()}}
        for name in answers[0]:
            if name in timed:
                yield name, torch.cat([answer[name] for answer in answers], timed[name])
            elif name.removesuffix(GRADIENT) in self.shared:
                yield name, sum_of([answer[name] for answer in answers])
            else:
                yield name, answers[0 if name.endswith(GRADIENT) else -1][name]

    def each_alone(self, run: Any, x: Bunch, length: int) -> Sides:
        """Sequences of this length, cut from all rows, in one batch, and each by itself. The first axis is that of the batch."""
        names = [tensor.name for tensor in self.contract.inputs if tensor.name not in self.shared]
        names += [tensor.name + GRADIENT for tensor in self.contract.outputs]
        n = self.length(x)
        pieces = [{**x, **self.part(x, first, first + length)} for first in range(0, n - length + 1, length)]
        together = run.gradients(x, **{name: torch.cat([piece[name] for piece in pieces]) for name in names})
        rows = range(len(x[names[0]]))
        alone = [run.gradients(x, **{name: piece[name][row : row + 1] for name in names}) for piece, row in product(pieces, rows)]
        joined = {
            name: (sum_of if name.removesuffix(GRADIENT) in self.shared else torch.cat)([answer[name] for answer in alone])
            for name in together
        }
        return _labelled(together, f"of {length} steps"), _labelled(joined, f"of {length} steps")


def sum_of(parts: list[Tensor]) -> Tensor:
    """In float64: the sum of stored numbers is the law's, and adds no rounding."""
    return torch.stack([part.double() for part in parts]).sum(0)


def places(n: int, rng: random.Random, most: int) -> list[int]:
    """Where to cut n steps in two: after the first step, before the last, around edges of tiles, and somewhere."""
    edges = {tile + by for tile in TILES for by in (-1, 0, 1)} | {rng.randrange(1, n)}
    inner = sorted(edge for edge in edges if 1 < edge < n - 1)
    return sorted({1, n - 1, *rng.sample(inner, min(most - 2, len(inner)))})


def _from(now: int, before: Tensor, after: Tensor, axis: int) -> Tensor:
    """One tensor until `now`, and another from there."""
    return torch.cat([before.narrow(axis, 0, now), after.narrow(axis, now, after.shape[axis] - now)], axis)


def _labelled(answer: dict[str, Tensor], words: str) -> dict[str, Tensor]:
    return {f"{name} {words}": tensor for name, tensor in answer.items()}


def give_laws(spec: Spec) -> None:
    """Register the laws of the past. Their left sides are cut into parts; the right ones are whole."""
    past = Past(spec.contract)

    @spec.law(when=lambda case: 1 < case.n <= STEPS)
    def one_by_one_makes_a_whole(run, x: Bunch, rng):
        return past.in_parts(run, x, list(range(1, past.length(x)))), run.gradients(x)

    @spec.law(when=lambda case: 1 < case.n <= LONGEST)
    def any_split_makes_a_whole(run, x: Bunch, rng):
        left: dict[str, Tensor] = {}
        right: dict[str, Tensor] = {}
        whole = run.gradients(x)
        for cut in places(past.length(x), rng, most=6 if past.length(x) <= STEPS else 4):
            left |= _labelled(past.in_parts(run, x, [cut]), f"after a split at {cut}")
            right |= _labelled(whole, f"after a split at {cut}")
        return left, right

    @spec.law(when=lambda case: 2 < case.n <= LONGEST)
    def chunks_of_any_size_make_a_whole(run, x: Bunch, rng):
        left: dict[str, Tensor] = {}
        right: dict[str, Tensor] = {}
        whole, n = run.gradients(x), past.length(x)
        for size in sorted({rng.randrange(2, n), *(tile for tile in TILES if tile < n)}):
            left |= _labelled(past.in_parts(run, x, list(range(size, n, size))), f"in chunks of {size}")
            right |= _labelled(whole, f"in chunks of {size}")
        return left, right

    @spec.law(when=lambda case: 1 < case.n <= LONGEST)
    def the_future_is_invisible(run, x: Bunch, rng):
        left: dict[str, Tensor] = {}
        right: dict[str, Tensor] = {}
        whole = run(x)
        for now in places(past.length(x), rng, most=5):
            left |= _labelled(past.until(run(x, **past.otherwise_from(x, now)), now), f"before {now}")
            right |= _labelled(past.until(whole, now), f"before {now}")
        return left, right

    @spec.law(when=lambda case: 1 < case.n <= LONGEST)
    def the_future_is_invisible_to_gradients(run, x: Bunch, rng):
        """Gradients of what comes before do not depend on what comes after it."""
        now = rng.choice(places(past.length(x), rng, most=8))
        unread = past.unread_from(x, now)
        sides = run.gradients(x, **unread, **past.otherwise_from(x, now)), run.gradients(x, **unread)
        left, right = (_labelled(past.until(side, now), f"before {now}") for side in sides)
        return left, right

    @spec.law(when=lambda case: case.b > 1 and case.n <= LONGEST)
    def a_batch_is_its_rows(run, x: Bunch, rng):
        return past.each_alone(run, x, past.length(x))

    @spec.law(when=lambda case: 1 < case.n <= LONGEST)
    def sequences_in_a_batch_are_each_alone(run, x: Bunch, rng):
        n = past.length(x)
        return past.each_alone(run, x, rng.randrange((n + 2) // 3, n))
