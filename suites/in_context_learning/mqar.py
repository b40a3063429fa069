"""Multi-query associative recall (Arora et al. 2023, arXiv:2312.04927): pairs of key and value, then each key asks for its value.

    ids      k3 v7 k1 v2 . . k1 . . . k3 .        a dot is a filler
    targets                  v2       v7          said at the place of the key, as in the paper

Keys and values of a row are drawn without repeats, and each key asks once, after a gap g drawn with a weight of g^(a-1).
A model that ignores the context is right once in `values` times, one that says any value of the context once in `pairs`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .batch import NOTHING, Ask, Batch, accuracy, dice, without_repeats

A = 0.01  # of the paper: most questions come soon, some late
FILLER = 0


@dataclass(frozen=True)
class Mqar:
    """Rows of n tokens with so many pairs, the fewest first; training has all kinds alike."""

    pairs: tuple[int, ...]
    keys: int
    values: int
    n: int
    trials: int
    seed: int = 0

    @property
    def v(self) -> int:
        return 1 + self.keys + self.values

    def rows(self, count: int, pairs: int, rng: torch.Generator) -> Batch:
        keys = 1 + without_repeats(count, self.keys, pairs, rng)
        values = 1 + self.keys + without_repeats(count, self.values, pairs, rng)
        weights = torch.arange(1.0, (self.n - 2 * pairs) // 2 + 1) ** (A - 1)
        asked_at = 2 * pairs + 2 * torch.multinomial(weights.expand(count, -1), pairs, generator=rng)
        ids = torch.full((count, self.n), FILLER)
        ids[:, : 2 * pairs] = torch.stack([keys, values], 2).flatten(1)
        return Batch(ids.scatter(1, asked_at, keys), torch.full_like(ids, NOTHING).scatter(1, asked_at, values))

    def batches(self, size: int) -> Iterator[Batch]:
        """Training batches without end."""
        rng = dice("mqar, training", self.seed)
        while True:
            for pairs in self.pairs:
                yield self.rows(size, pairs, rng)

    def measure(self, ask: Ask) -> dict[str, list[float]]:
        """By number of pairs: of each trial, the share of keys whose value is said."""
        rng = dice("mqar, trials", self.seed)
        return {f"{pairs} pairs": accuracy(ask, self.rows(self.trials, pairs, rng)) for pairs in self.pairs}

    def score(self, found: dict[str, list[float]]) -> list[float]:
        """Of each trial with the most pairs, the share that is right."""
        return found[f"{self.pairs[-1]} pairs"]

    @property
    def chance(self) -> float:
        return 1 / self.values

    def exact(self, ids: Tensor) -> Tensor:
        """Reads the pairs, looks each key up."""
        logits = torch.zeros(*ids.shape, self.v)
        for row, tokens in enumerate(ids.tolist()):
            known: dict[int, int] = {}
            for place, token in enumerate(tokens):
                if token in known:
                    logits[row, place, known[token]] = 1.0
                elif 0 < token <= self.keys:
                    known[token] = tokens[place + 1]
        return logits

    def blind(self, ids: Tensor) -> Tensor:
        """Says the same value always."""
        logits = torch.zeros(*ids.shape, self.v)
        logits[..., 1 + self.keys] = 1.0
        return logits
