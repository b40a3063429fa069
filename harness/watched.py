"""A trained model, watched while it is measured: what it says is judged at the very lengths that a table will tell of.

Before training a model is judged at small sizes, and may be another one later: with other weights, at other lengths, beside other
rows. So whoever measures asks through `Watched`. At each length for the first time the answer is held against what every language
model keeps, and against the reference of its spec in float64 with the weights that it was given; then, of every few rows one is
asked again. Which row and from which place on is told by the tokens that are asked: nobody can count on it, and it repeats.
Where rows hang on one another by definition, as with LLM.int8(), the whole batch is held against the reference.
"""

import random
import zlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from harness import asking, judge
from harness.cell import OK
from harness.contract import ContractError
from harness.spec import Bunch, Case, Spec

# Numbers in float64, a gigabyte of them: a reference may hold one for each channel of every pair of tokens, and is not asked
# where that is more, which at the default scale is from 9 times the training length on.
MOST = 2**27
NEAR = 256  # places: of a large vocabulary the logits of a long row take gigabytes
EVERY = 8  # rows of which one is asked again


@dataclass(frozen=True)
class Reference:
    """What a spec defines for a case and these weights, by the names of its parameters."""

    spec: Spec
    case: Case
    weights: Mapping[str, Tensor]

    @property
    def rows_apart(self) -> bool:
        """Whether a row hangs on itself alone, as in all models but those whose spec says that it does not hold of the case."""
        law = self.spec.laws.get("a_batch_is_its_rows")
        return law is None or law.when(self.case)

    def check(self, ids: Tensor, said: Tensor) -> None:
        """ContractError where what a model said of ids[b n] is not what this says."""
        b, n = ids.shape
        if not self.spec.defined or b * n * n * self.case.d > MOST:
            return
        case = self.case.resized({"b": b, "n": n})
        named = {tensor.name for tensor in self.spec.given(case)}
        exact = {name: tensor.double().cpu() for name, tensor in self.weights.items() if name in named}
        try:
            truth = self.spec.reference(Bunch({**exact, "ids": ids.cpu()}), case)
        except RuntimeError as error:
            if n <= (t := case.values.get("t", n)):
                raise
            raise ContractError(
                f"it answers {n:,} tokens, of which its spec says nothing: that ends at t = {t}"
                "\n  a model that cannot read so many raises harness.Unsupported"
            ) from error
        answer = judge.by_the_digits(self.spec, case, truth, {"logits": said.cpu()})
        if answer.outcome != OK:
            raise ContractError(f"as it is measured, it does not compute what its spec says of {n:,} tokens\n{answer.note}")


@dataclass(frozen=True)
class Watched:
    """A model on a device as a function of ids[b n] on the CPU that gives logits[b n v] there, an encoder's [b v].

    With `last`, what it says at the end of each row alone. ContractError where an answer is none, or hangs on what it must not.
    """

    model: nn.Module
    device: str
    reference: Reference | None = None
    last: bool = False
    lengths: set[int] = field(default_factory=set)  # that were asked before

    @property
    def digits(self) -> float:
        """The share of them that two of its answers to one question have in common."""
        return judge.digits_of(self.reference.spec) if self.reference else judge.HALF

    @torch.no_grad()
    def __call__(self, ids: Tensor) -> Tensor:
        here, n = ids.to(self.device), ids.shape[1]
        with asking.saying_how_to_end(here, self.reference.case.values.get("t") if self.reference else None):
            said = self.model(here)
        check_logits(said, here)
        dice = random.Random(zlib.crc32(ids.contiguous().numpy().tobytes()))
        row = dice.randrange(len(ids))
        if self.reference and not self.reference.rows_apart:
            if n not in self.lengths:
                self.reference.check(ids, said)
        elif n not in self.lengths:
            half = (1 << (n - 1).bit_length()) // 2  # where pieces of every smaller power of two end too
            check_row(self.model, here, said, row, {n // 3 | 1, half, (n - n // 4) | 1, n - 2, n - 1}, self.digits)
            if self.reference:
                self.reference.check(ids[row, None], said[row, None])
        elif dice.random() * EVERY < len(ids):
            far = int(n ** dice.random())  # from the end of the row, where most is asked
            check_row(self.model, here, said, row, {n - far}, self.digits)
        self.lengths.add(n)
        return (said[:, -1] if self.last and said.ndim == 3 else said).cpu()


def check_logits(said: Any, ids: Tensor) -> None:
    """ContractError where what a model says of ids[b n] is not logits[b n v], or of an encoder [b v], all of them finite."""
    if not isinstance(said, Tensor) or not said.is_floating_point():
        kind = said.dtype if isinstance(said, Tensor) else type(said).__name__
        raise ContractError(f"of {ids.shape[1]:,} tokens it returned {kind} in place of logits in floating point")
    if said.ndim not in (2, 3) or said.shape[:-1] != ids.shape[: said.ndim - 1]:
        raise ContractError(f"of ids{list(ids.shape)} it returned logits of shape {list(said.shape)}")
    if not said.isfinite().all():
        raise ContractError(f"its logits of {ids.shape[1]:,} tokens are not all finite")


def check_row(
    model: Callable[[Tensor], Tensor], ids: Tensor, said: Tensor, row: int, cuts: Collection[int], digits: float = judge.HALF
) -> None:
    """ContractError where what a model said of one row of ids[b n] hangs on the other rows or on later tokens.

    The row is given again without the others, with other tokens from each of the `cuts` on, and NEAR answers before that are
    compared. An encoder's row, which has no later, is given as it was.
    """
    own, n, v = ids[row, None], ids.shape[1], said.shape[-1]
    tokens, places = ids.unique(), torch.arange(n, device=ids.device)
    # For each token another one that is there; where there is but one, another of the vocabulary.
    others = tokens[(torch.searchsorted(tokens, own) + 1) % len(tokens)] if len(tokens) > 1 else (own + 1) % v

    def unlike(given: Tensor, cut: int) -> bool:
        again = model(given)
        check_logits(again, given)
        return judge.apart(_before(cut, said[row, None]), _before(cut, again), digits) is not None

    for cut in [n] if said.ndim == 2 else sorted({max(1, min(n, cut)) for cut in cuts}):
        if unlike(torch.where(places < cut, own, others), cut):
            on = "the other rows of its batch" if unlike(own, cut) else f"the tokens from {cut:,} on"
            raise ContractError(f"as it is measured, what it says of a row of {n:,} tokens hangs on {on}")


def _before(cut: int, logits: Tensor) -> Tensor:
    """The last answers before a place; of an encoder its one answer."""
    return logits if logits.ndim == 2 else logits[:, max(0, cut - NEAR) : cut]


@torch.no_grad()
def check_steps(model: Any, ids: Tensor, digits: float = judge.HALF) -> None:
    """ContractError where steps over the first row of ids[2 n], the other read in turn with it, say otherwise than the whole."""
    stepped = asking.stepped_in_turn(model, ids[:1], ids[1:])
    check_logits(stepped, ids[:1])
    if (place := judge.apart(model(ids[:1]), stepped, digits)) is not None:
        raise ContractError(
            f"token by token, with two texts read in turn, it does not say what it says of the whole, from token {place:,} on"
        )
