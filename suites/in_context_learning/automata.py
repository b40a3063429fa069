"""In-context languages of random automata, in the spirit of RegBench (Akyürek et al. 2024, arXiv:2401.12973).

A row is a walk through an automaton drawn as there: from each state one to three symbols, all different, to as many different
other states, each symbol as likely. Kept are automata in which the last two symbols always tell the state, so that a walk is
enough to know them. Asked is, wherever the last two symbols were seen before: is the likeliest next symbol one that the
automaton permits? Automata of the trials are not among those of training: their languages differ, not only their names.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .batch import NOTHING, Ask, Batch, accuracy, dice
from .bigrams import earlier, followers

MOST_EXITS = 3
DRAWN_AT_ONCE = 2000
BATCHES_AT_ONCE = 16  # walked together: a step of a few hundred walks costs as much as one of a few


@dataclass(frozen=True)
class Automata:
    """Rows of n symbols below v; `automata` of them are trained on, one more for each trial."""

    states: int
    v: int
    n: int
    automata: int
    trials: int
    seed: int = 0

    @cached_property
    def drawn(self) -> tuple[Tensor, Tensor]:
        """next[a states v] of the automata of training and of the trials: the state that a symbol leads to, -1 for none."""
        rng = dice("automata", self.states, self.v, self.seed)
        kept: dict[bytes, Tensor] = {}
        while len(kept) < self.automata + self.trials:
            found = _draw(DRAWN_AT_ONCE, self.states, self.v, rng)
            ends = after_two(found)
            found, ends = found[two_symbols_tell(ends)], ends[two_symbols_tell(ends)]
            for automaton, trigrams in zip(found, language(found, ends), strict=True):
                kept.setdefault(trigrams.numpy().tobytes(), automaton)
        every = torch.stack(list(kept.values())[: self.automata + self.trials])
        return every[: self.automata], every[self.automata :]

    def walks(self, automata: Tensor, rng: torch.Generator) -> Batch:
        """A walk through each of automata[b states v], from a random state."""
        row = torch.arange(len(automata))
        state = torch.randint(self.states, (len(automata),), generator=rng)
        permitted, symbols = [], []
        for _ in range(self.n + 1):
            permitted.append(automata[row, state] >= 0)
            symbols.append(torch.multinomial(permitted[-1].float(), 1, generator=rng)[:, 0])
            state = automata[row, state, symbols[-1]]
        ids = torch.stack(symbols, 1)
        return Batch(ids[:, :-1], ids[:, 1:], valid=torch.stack(permitted[1:], 1))

    def batches(self, size: int) -> Iterator[Batch]:
        """Training batches without end, asked everywhere."""
        rng = dice("automata, training", self.seed)
        while True:
            chosen = torch.randint(self.automata, (size * BATCHES_AT_ONCE,), generator=rng)
            walked = self.walks(self.drawn[0][chosen], rng)
            yield from (Batch(*rows) for rows in zip(walked.ids.split(size), walked.targets.split(size), strict=True))

    def held_out(self) -> Batch:
        """A walk through each automaton of the trials, asked where the last two symbols were seen before."""
        walked = self.walks(self.drawn[1], dice("automata, trials", self.seed))
        return Batch(walked.ids, walked.targets.where(earlier(walked.ids).any(2), NOTHING), walked.valid)

    def measure(self, ask: Ask) -> dict[str, list[float]]:
        """By half of the walk: of each trial that is asked something there, the share to which a permitted symbol is said."""
        trials, half = self.held_out(), torch.arange(self.n) < self.n // 2
        return {
            f"{name} half": accuracy(ask, Batch(trials.ids, trials.targets.where(part, NOTHING), trials.valid))
            for name, part in (("first", half), ("second", ~half))
        }

    def score(self, found: dict[str, list[float]]) -> list[float]:
        """Of each trial, the share in the second half."""
        return found["second half"]

    @property
    def chance(self) -> float:
        """The share of all symbols that are permitted, on average over what is asked."""
        trials = self.held_out()
        asked = trials.targets != NOTHING
        asked[:, : self.n // 2] = False
        assert trials.valid is not None
        return float(trials.valid[asked].double().mean())

    def exact(self, ids: Tensor) -> Tensor:
        """What came after the last two symbols before: the automaton is in the same state again."""
        return followers(ids, self.v)

    def blind(self, ids: Tensor) -> Tensor:
        """Says the same symbol always."""
        logits = torch.zeros(*ids.shape, self.v)
        logits[..., 0] = 1.0
        return logits


def _draw(count: int, states: int, v: int, rng: torch.Generator) -> Tensor:
    """next[count states v]."""
    exits = torch.randint(1, MOST_EXITS + 1, (count, states, 1), generator=rng)
    symbols = torch.rand(count, states, v, generator=rng).argsort(2)[..., :MOST_EXITS]
    away = torch.rand(count, states, states - 1, generator=rng).argsort(2)[..., :MOST_EXITS]
    targets = (torch.arange(states)[:, None] + 1 + away) % states  # any state but one's own
    targets = targets.where(torch.arange(MOST_EXITS) < exits, -1)
    return torch.full((count, states, v), -1).scatter(2, symbols, targets)


def after_two(automata: Tensor) -> Tensor:
    """[a states v v]: where two symbols lead from each state, -1 where they are not permitted."""
    count, states, v = automata.shape
    after = automata.clamp(min=0)[..., None].expand(-1, -1, -1, v)
    ends = automata.gather(1, after.flatten(1, 2)).view(count, states, v, v)
    return ends.where(automata[..., None] >= 0, -1)


def two_symbols_tell(ends: Tensor) -> Tensor:
    """[a]: whether each two symbols that are permitted lead to one state only, from wherever."""
    last, first = ends.amax(1), ends.where(ends >= 0, ends.shape[1]).amin(1)
    return ((last < 0) | (last == first)).flatten(1).all(1)


def language(automata: Tensor, ends: Tensor) -> Tensor:
    """[a v v v]: which three symbols may follow one another; where two symbols tell the state, this is the whole language."""
    count, _, v = automata.shape
    state = ends.amax(1)
    permitted = (automata >= 0).gather(1, state.clamp(min=0).flatten(1)[..., None].expand(-1, -1, v)).view(count, v, v, v)
    return permitted & (state >= 0)[..., None]
