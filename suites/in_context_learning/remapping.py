"""Does the context override what the weights know? After "Larger language models do in-context learning differently" (Wei et al.
2023, arXiv:2303.03846), with symbol tuning (Wei et al. 2023, arXiv:2305.08298) as a treatment.

Each input has one of two classes, always the same one, and each class a label of its own: the prior, which training puts into the
weights. A row states inputs with their labels, as many of either class, and ends with an input that it has not stated:

    ids      x1 y1 x2 y2 ... xq      targets   yq of the trials; y1 y2 ... yq of training

    kind of row   labels                                                             share of training   of symbol tuning
    ordinary      those of the prior                                                 0.7                 0.2
    flipped       those of the prior, exchanged throughout                           0.1                 0.1
    look-up       an arbitrary symbol for each input; inputs recur, asked is then    0.2
    remapped      a symbol for each class, another two symbols in each row                               0.7

So training knows every symbol as a token but binds none to a class, and half of the symbols are kept from tuning: trials use
these only. Tuning goes on with flipped rows too: with ordinary ones alone it would teach to follow the prior whatever is stated.

Trials flip 0 to 100 % of the labels. What follows the context says the label that most of it gives to a class; what follows the
prior does not care. At 50 % the context says nothing, and only agreement with the prior is reported. A model that cannot look up
what was stated, which is asked too, has nothing that symbol tuning could build on.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .batch import NOTHING, Ask, Batch, accuracy, dice, without_repeats

FLIPS = (0, 25, 50, 75, 100)  # percent of the stated labels
TRAINING = {"ordinary": 0.7, "flipped": 0.1, "look-up": 0.2}
TUNING = {"ordinary": 0.2, "flipped": 0.1, "remapped": 0.7}


@dataclass(frozen=True)
class Remapping:
    """`inputs` tokens in two classes, two labels, so many symbols; a row states `examples` inputs, a multiple of 4."""

    inputs: int
    symbols: int
    examples: int
    trials: int
    seed: int = 0

    @property
    def v(self) -> int:
        return self.inputs + 2 + self.symbols

    @property
    def n(self) -> int:
        return 2 * self.examples + 1

    @cached_property
    def classes(self) -> Tensor:
        """[inputs]: the class of each input, 0 or 1, as many of either."""
        return torch.randperm(self.inputs, generator=dice("remapping, classes", self.seed)) % 2

    @property
    def label(self) -> int:
        """The first of the two labels; that of class c is label + c."""
        return self.inputs

    def symbols_of(self, part: str) -> Tensor:
        """The symbols of "tuning", or those "held out"."""
        first = self.inputs + 2 + (0 if part == "tuning" else self.symbols // 2)
        return torch.arange(first, first + self.symbols // 2)

    def examples_of(self, count: int, rng: torch.Generator) -> Tensor:
        """x[b examples+1]: different inputs, as many of either class, in random order; the last one is of a random class."""
        half = self.examples // 2
        members = [(self.classes == c).nonzero()[:, 0] for c in (0, 1)]
        drawn = torch.stack([m[without_repeats(count, len(m), half + 1, rng)] for m in members], 1)  # [b 2 half+1]
        order = without_repeats(count, self.examples, self.examples, rng)
        asked = drawn[torch.arange(count), torch.randint(2, (count,), generator=rng), half]
        return torch.cat([drawn[:, :, :half].flatten(1).gather(1, order), asked[:, None]], 1)

    def rows(self, kind: str, count: int, rng: torch.Generator) -> Batch:
        """Rows of training or tuning, of one kind."""
        x = self.examples_of(count, rng)
        asked = torch.ones_like(x, dtype=torch.bool)
        y = self.label + self.classes[x]
        if kind == "flipped":
            y = self.label + 1 - self.classes[x]
        if kind == "look-up":
            few = self.examples // 4
            which = torch.randint(few, x.shape, generator=rng)
            symbols = self.label + 2 + without_repeats(count, self.symbols, few, rng)
            x, y = x.gather(1, which), symbols.gather(1, which)
            asked = ((which[:, :, None] == which[:, None, :]).tril(-1)).any(2)
        if kind == "remapped":
            own = self.symbols_of("tuning")
            y = own[without_repeats(count, len(own), 2, rng)].gather(1, self.classes[x])
            asked[:, : self.examples // 2] = False  # most often nobody can know yet
        return _batch(x, y, asked)

    def batches(self, size: int) -> Iterator[Batch]:
        """Training batches without end."""
        return self._mixed(TRAINING, size, dice("remapping, training", self.seed))

    def tuning(self, size: int) -> Iterator[Batch]:
        """Batches of symbol tuning without end."""
        return self._mixed(TUNING, size, dice("remapping, tuning", self.seed))

    def _mixed(self, shares: Mapping[str, float], size: int, rng: torch.Generator) -> Iterator[Batch]:
        while True:
            kinds = torch.multinomial(torch.tensor(list(shares.values())), size, replacement=True, generator=rng)
            counts = torch.bincount(kinds, minlength=len(shares)).tolist()
            parts = [self.rows(kind, count, rng) for kind, count in zip(shares, counts, strict=True)]
            yield Batch(torch.cat([part.ids for part in parts]), torch.cat([part.targets for part in parts]))

    def flipped(self, percent: int) -> tuple[Batch, Batch]:
        """The same trials twice: asked for the prior's label, and for the one that most of the context gives to that class."""
        rng = dice("remapping, trials", self.seed)  # the same inputs whatever is flipped
        x = self.examples_of(self.trials, rng)
        flips = without_repeats(self.trials, self.examples, self.examples, rng) < self.examples * percent // 100
        prior = self.label + self.classes[x]
        y = prior.clone()
        y[:, :-1] = torch.where(flips, 2 * self.label + 1 - y[:, :-1], y[:, :-1])
        last = torch.arange(x.shape[1]) == self.examples
        labels = torch.tensor([self.label, self.label + 1]).expand(self.trials, 2)
        context = 2 * self.label + 1 - prior if percent > 50 else prior
        ids = _batch(x, y, last.expand_as(x)).ids
        by_prior, by_context = (_batch(x, whose, last.expand_as(x)).targets for whose in (prior, context))
        return Batch(ids, by_prior, among=labels), Batch(ids, by_context, among=labels)

    def unrelated(self) -> Batch:
        """Trials whose labels are two held-out symbols, another two in each."""
        rng = dice("remapping, trials of symbols", self.seed)
        x = self.examples_of(self.trials, rng)
        own = self.symbols_of("held out")
        two = own[without_repeats(self.trials, len(own), 2, rng)]
        last = (torch.arange(x.shape[1]) == self.examples).expand_as(x)
        stated = _batch(x, two.gather(1, self.classes[x]), last)
        return Batch(stated.ids, stated.targets, among=two)

    def measure(self, ask: Ask) -> dict[str, list[float]]:
        """Of each trial 1 or 0: agreement with prior and context by percent flipped; right on symbols and look-ups."""
        found = {}
        for percent in FLIPS:
            prior, context = self.flipped(percent)
            found[f"prior, {percent} %"] = accuracy(ask, prior)
            if percent != 50:
                found[f"context, {percent} %"] = accuracy(ask, context)
        found["look-up"] = accuracy(ask, self.rows("look-up", self.trials, dice("remapping, trials of look-up", self.seed)))
        symbols = self.unrelated()
        found["symbols, of two"] = accuracy(ask, symbols)
        found["symbols, of all"] = accuracy(ask, Batch(symbols.ids, symbols.targets))
        return found

    def score(self, found: dict[str, list[float]]) -> list[float]:
        """Of each trial, how often the context is followed over all percentages but 50; the prior is right in half of them."""
        columns = [found[f"context, {percent} %"] for percent in FLIPS if percent != 50]
        return [sum(trial) / len(trial) for trial in zip(*columns, strict=True)]

    @property
    def chance(self) -> float:
        return 0.5

    def exact(self, ids: Tensor) -> Tensor:
        """Knows the classes, counts how often the context gives a label to the class of the input, and to the other; looks up."""
        x, y = ids[:, 0::2], ids[:, 1::2]
        alike = self.classes[x][:, :, None] == self.classes[x][:, None, : y.shape[1]]  # [b examples+1 examples]
        same = x[:, :, None] == x[:, None, : y.shape[1]]  # what was stated of the very input outweighs all
        votes = (2 * alike.double() - 1 + 4 * self.examples * same) * torch.ones_like(alike, dtype=torch.double).tril(-1)
        logits = torch.zeros(*ids.shape, self.v, dtype=torch.double)
        logits[:, 0::2] = votes @ torch.nn.functional.one_hot(y, self.v).double()
        return logits

    def blind(self, ids: Tensor) -> Tensor:
        """Knows the classes and nothing of the context: the prior's label, and the lower of two symbols."""
        logits = -torch.arange(self.v, dtype=torch.double).repeat(*ids.shape, 1)
        return logits.scatter(2, (self.label + self.classes[ids.clamp(max=self.inputs - 1)])[..., None], 1.0)


def _batch(x: Tensor, y: Tensor, asked: Tensor) -> Batch:
    """Rows x1 y1 x2 y2 ... xq of inputs x[b k] and labels y[b k], asked for the labels where `asked[b k]` says so."""
    ids = torch.stack([x, y], 2).flatten(1)[:, :-1]
    targets = torch.full_like(ids, NOTHING)
    targets[:, 0::2] = y.where(asked, NOTHING)
    return Batch(ids, targets)
