"""What every probe asks with: rows of tokens, what is to be said after them, and the share that a model gets right.

A model answers a whole row in one parallel pass: position i has read ids up to and including i and nothing later.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.nn import room, train

Ask = Callable[[Tensor], Tensor]  # ids[b n] -> logits[b n v]
NOTHING = train.NOTHING  # the target where nothing is asked
AT_ONCE = 4096  # tokens that a model is asked in one pass


@dataclass(frozen=True)
class Batch:
    """ids[b n], and targets[b n] to be said after each position, NOTHING where nothing is asked.

    Where several answers are right, `valid[b n v]` says which. Where an answer is one of a few, `among[b c]` names them,
    and the likeliest of these counts as said.
    """

    ids: Tensor
    targets: Tensor
    valid: Tensor | None = None
    among: Tensor | None = None


def dice(*words: object) -> torch.Generator:
    """Random numbers that are the same for the same words, on every machine."""
    seed = hashlib.sha256(" ".join(map(str, words)).encode()).digest()[:8]
    return torch.Generator().manual_seed(int.from_bytes(seed, "big") >> 1)


def without_repeats(rows: int, below: int, count: int, rng: torch.Generator) -> Tensor:
    """[rows count]: in each row `count` different numbers below `below`, in random order."""
    return torch.rand(rows, below, generator=rng).argsort(1)[:, :count]


@torch.inference_mode()
def logits(ask: Ask, ids: Tensor) -> Tensor:
    """logits[b n v] of all rows, asked a few rows at a time, without gradients."""
    return torch.cat([*room.in_parts(ask, ids, AT_ONCE)])


def accuracy(ask: Ask, trials: Batch) -> list[float]:
    """Of each row in which something is asked, the share of that to which the likeliest answer is right."""
    said = logits(ask, trials.ids)
    if trials.among is not None:
        among = trials.among[:, None].expand(-1, said.shape[1], -1)
        likeliest = among.gather(2, said.gather(2, among).argmax(2, keepdim=True))
    else:
        likeliest = said.argmax(2, keepdim=True)
    right = likeliest[..., 0] == trials.targets if trials.valid is None else trials.valid.gather(2, likeliest)[..., 0]
    asked = trials.targets != NOTHING
    rows = asked.any(1)
    return ((right & asked)[rows].sum(1).double() / asked[rows].sum(1)).tolist()
