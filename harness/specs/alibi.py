"""Attention with linear biases (Press et al. 2021, arXiv:2108.12409, section 3): the bias that is added to the scores.

The bias is -slope * |query - key|, which is also defined for keys that lie ahead. The official code and BLOOM add
slope * key instead, which is the same under a causal mask (a row's constant cancels) and differs elsewhere.
Slopes for h heads: 2^(-8 (i + 1) / h) for a power of two; otherwise those of the power of two below, followed by
every second slope of the power of two above, as in the official code, BLOOM and MPT.
Distances are whole numbers and exact in float32 up to 2^24: at a million only the product with the slope may be rounded, and
float16 overflows.
"""

import torch
from torch import Tensor

from harness.spec import Bunch, Case, spec


@spec(
    "query[n]:int<far, key[m]:int<far -> bias[h n m]",
    h=8,
    n=37,
    m=53,
    far=64,
    cases={
        "plain": {},
        "one_query": {"n": 1},
        "many_queries": {
            "n": 150,
            "m": 150,
            "h": 2,
            "far": 400,
        },  # what is done for the first tiles of queries, or of keys, alone
        "many_heads": {"h": 112, "n": 19, "m": 29},  # as BLOOM: more than a tile of 32, or of 64
        "two_heads": {"h": 2},
        "one_head": {"h": 1},
        "twelve_heads": {"h": 12},  # not a power of two: the second list starts at the wrong end
        "five_heads": {"h": 5},
        "fifteen_heads": {"h": 15},  # the second list is used but for its last
        "sixteen_heads": {"h": 16},
        "whole_tiles": {"h": 24, "n": 64, "m": 128, "far": 400},  # no ragged tile; as many heads as no table begins with
        "far": {"far": 4096},  # consecutive integers above 256 are equal in bfloat16
        "million": {"far": 1_000_000, "n": 11, "m": 19},  # positions in 16 bits, a table of any trained length
    },
)
def alibi(query: Tensor, key: Tensor, *, h: int = 8) -> Tensor:
    return biases(query, key, slopes(h, query.device))


def slopes(h: int, device: torch.device | None = None) -> Tensor:
    """One slope per head [h]."""
    below = 1 << (h.bit_length() - 1)
    place = torch.arange(1, 2 * below + 1, dtype=torch.float64, device=device)
    # Powers of one number, as in the official code: where that one is rounded, so are slopes that are round themselves.
    first, second = (2.0 ** (-8 / below)) ** place[:below], (2.0 ** (-4 / below)) ** place[::2]
    return torch.cat([first, second[: h - below]])


def biases(query: Tensor, key: Tensor, slope: Tensor) -> Tensor:
    """Minus slope times distance: [h n m]."""
    distance = (query[:, None] - key[None, :]).abs()
    return -slope[:, None, None] * distance


EQUIVALENT = dict.fromkeys(
    (
        "slopes: 2 * below -> 3 * below",
        "slopes: 2 * below + 1 -> 2 * below + 2",
        "slopes: 2 * below + 1 -> 2 * below + 0",
    ),
    "fewer than `below` slopes of the second list are used, and they are there",
)


@alibi.work(along=("n", "m", "far"), h=8)
def _(case: Case) -> float:
    return case.h * case.n * case.m


@alibi.family
def last(x: Bunch, case: Case, rng: torch.Generator):
    """The last positions, one after another, as a decoder has them: small distances of large numbers."""
    return {"query": torch.arange(case.far - case.n, case.far), "key": torch.arange(case.far - case.m, case.far)}


def _finite(case: Case) -> bool:
    """Whether every dtype holds the biases: two that are infinite have no difference."""
    return case.far <= torch.finfo(torch.float16).max


@alibi.law(when=_finite)
def only_the_distance_counts(run, x: Bunch, rng):
    query, key = x.query // 2, x.key // 2
    shift = torch.maximum(query.max(), key.max())
    return run(x, query=query, key=key).bias, run(x, query=query + shift, key=key + shift).bias


@alibi.law(when=_finite)
def nearness_is_symmetric(run, x: Bunch, rng):
    return run(x).bias, run(x, query=x.key, key=x.query).bias.mT


@alibi.mistake("slopes start at one")
def _(query, key, *, h):
    return biases(query, key, slopes(h) * 2 ** (8 / h))


@alibi.mistake("slopes of a number of heads that is no power of two follow the simple formula")
def _(query, key, *, h):
    return biases(query, key, 2.0 ** (-8 * torch.arange(1, h + 1, dtype=torch.float64) / h))


@alibi.mistake("the second list of slopes starts at its second entry")
def _(query, key, *, h):
    below = 1 << (h.bit_length() - 1)
    second = 2.0 ** (-8 * torch.arange(2, 2 * below + 1, 2, dtype=torch.float64) / (2 * below))
    return biases(query, key, torch.cat([slopes(below), second[: h - below]]))


@alibi.mistake("keys are counted anew in each tile of 64")
def _(query, key, *, h):
    tile = torch.arange(len(key)) // 64 * 64
    return biases(query, key[torch.arange(len(key)) - tile], slopes(h))


@alibi.mistake("the sign is turned")
def _(query, key, *, h):
    return -biases(query, key, slopes(h))


@alibi.mistake("keys ahead are rewarded")
def _(query, key, *, h):
    return -slopes(h)[:, None, None] * (query[:, None] - key[None, :])


@alibi.mistake("rows are numbered instead of reading their positions")
def _(query, key, *, h):
    return biases(torch.arange(len(query)), torch.arange(len(key)), slopes(h))


@alibi.mistake("positions are rounded to bfloat16")
def _(query, key, *, h):
    return biases(query.to(torch.bfloat16).double(), key.to(torch.bfloat16).double(), slopes(h))


@alibi.mistake("heads are in the opposite order")
def _(query, key, *, h):
    return biases(query, key, slopes(h).flip(0))


@alibi.mistake("positions above 65504 overflow float16, and are held at it")
def _(query, key, *, h):
    return biases(query.clamp(max=65504), key.clamp(max=65504), slopes(h))


@alibi.mistake("positions wrap around in 16 bits")
def _(query, key, *, h):
    return biases(query % 65536, key % 65536, slopes(h))


@alibi.mistake("keys further than 131072 are all as far")
def _(query, key, *, h):
    return -slopes(h)[:, None, None] * (query[:, None] - key).abs().clamp(max=131072)


@alibi.mistake("heads beyond the 64th follow the simple formula")
def _(query, key, *, h):
    simple = 2.0 ** (-8 * torch.arange(1, h + 1, dtype=torch.float64) / h)
    return biases(query, key, torch.cat([slopes(h)[:64], simple[64:]]))


@alibi.mistake("heads beyond the 32nd have the slopes of those before")
def _(query, key, *, h):
    return biases(query, key, slopes(h)[torch.arange(h) % 32])


@alibi.mistake("the last tile of 16 keys is left out where it is whole")
def _(query, key, *, h):
    m = len(key)
    return biases(query, key, slopes(h)) * ((torch.arange(m) < m - 16) | (m % 16 != 0))


@alibi.mistake("between 16 and 64 heads, slopes of the second list come first")
def _(query, key, *, h):
    below = 1 << (h.bit_length() - 1)
    return biases(query, key, slopes(h).roll(h - below, 0) if 16 < h < 64 else slopes(h))
