"""Induction (Olsson et al. 2022, arXiv:2209.11895): random tokens repeat with a period; what comes after a pair seen before?

    ids      c a f b | c a f b | c a f            period 4 here
    targets              f b   c a   f b

The tokens of a period are all different, and the period differs from row to row: with one fixed period a model solves it by
position alone. Asked is wherever the last two tokens were seen before. Chance is one in v; a model that says any token that it
has seen is right once in a period.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .batch import NOTHING, Ask, Batch, accuracy, dice, without_repeats
from .bigrams import followers


@dataclass(frozen=True)
class Induction:
    """Rows of n tokens below v; training has all periods from the first to the last of `periods`, trials these alone."""

    periods: tuple[int, ...]
    v: int
    n: int
    trials: int
    seed: int = 0

    def rows(self, periods: Tensor, rng: torch.Generator) -> Batch:
        """A row for each of periods[b]."""
        tokens = without_repeats(len(periods), self.v, max(self.periods), rng)
        place, period = torch.arange(self.n + 1), periods[:, None]
        ids = tokens.gather(1, place % period)
        return Batch(ids[:, :-1], ids[:, 1:].where(place[:-1] > period, NOTHING))

    def batches(self, size: int) -> Iterator[Batch]:
        """Training batches without end."""
        rng = dice("induction, training", self.seed)
        while True:
            yield self.rows(torch.randint(self.periods[0], self.periods[-1] + 1, (size,), generator=rng), rng)

    def measure(self, ask: Ask) -> dict[str, list[float]]:
        """By period: of each trial, the share of what is asked that is right."""
        rng = dice("induction, trials", self.seed)
        return {f"period {p}": accuracy(ask, self.rows(torch.full((self.trials,), p), rng)) for p in self.periods}

    def score(self, found: dict[str, list[float]]) -> list[float]:
        """Of each trial with the longest period, the share that is right."""
        return found[f"period {self.periods[-1]}"]

    @property
    def chance(self) -> float:
        return 1 / self.v

    def exact(self, ids: Tensor) -> Tensor:
        """What came after the last two tokens before."""
        return followers(ids, self.v)

    def blind(self, ids: Tensor) -> Tensor:
        """Says the same token always."""
        logits = torch.zeros(*ids.shape, self.v)
        logits[..., 0] = 1.0
        return logits
