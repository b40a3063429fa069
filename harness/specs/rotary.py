"""Rotary position embedding (Su et al. 2021, arXiv:2104.09864, eq. 34).

Pairs are adjacent (2i, 2i+1) as in the paper, GPT-J and RoFormer; GPT-NeoX and Llama pair i with i + d/2.
Frequencies are base^(-2i/d), i = 0 ... d/2 - 1. Positions are given: a decoder starts where its past ends.
Angles are exact here; an implementation may make them of float32 positions and frequencies, as Llama, transformers and
FlashAttention do, and be off by some 2^-24 of each angle (0.06 radians at position 1,000,000), but not by more.
"""

import torch
from torch import Tensor

from harness.spec import Bunch, Case, backward_of, spec


@spec(
    "x[b h n d], position[n]:int<far -> out[b h n d]",
    b=2,
    h=3,
    n=37,
    d=8,
    far=64,
    cases={
        "plain": {},
        "one_step": {"n": 1, "b": 1},
        "wide": {"d": 192},  # more than a tile
        "narrow": {"d": 2},
        "whole_tiles": {"b": 7, "h": 1, "n": 64, "d": 12},  # no ragged tile; a single head, an odd number of fours
        "even_heads": {"h": 4, "n": 5},
        "odd_widths": {"b": 5, "d": 22},
        "far": {"far": 4096},  # a table that ends too early, angles in a small dtype
        "very_far": {"far": 131072, "n": 11},  # positions in 16 bits
        "million": {"far": 1_000_000, "n": 19},  # a table of any trained length, float32 that is a little less
        "million_wide": {"far": 1_000_000, "n": 5, "d": 64},  # frequencies of which few are short in binary
        "many_rows": {"n": 150, "b": 1, "h": 9, "far": 400},  # what is done for the first tiles of rows, or heads, alone
        "base": {"base": 500.0},  # a base that is built in
    },
)
def rotary(x: Tensor, position: Tensor, *, base: float = 10000.0) -> Tensor:
    return rotate(x, angles(position, x.shape[-1], base))


def angles(position: Tensor, d: int, base: float = 10000.0) -> Tensor:
    """Angle [n d/2] of each pair at each position."""
    frequency = base ** (-torch.arange(0, d, 2, dtype=torch.float64, device=position.device) / d)
    return position.to(torch.float64)[:, None] * frequency


EQUIVALENT = {"rotate: x[..., 0::2] -> x[..., 0:-1:2]": "the width is even, so the last feature is of the odd ones"}


def rotate(x: Tensor, angle: Tensor) -> Tensor:
    """Turn each adjacent pair of x [... n d] by its angle [n d/2]."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


@rotary.work(along=("n", "far"), b=1, h=4, d=64)
def _(case: Case) -> float:
    """Four products and two sums for each pair of neighbours."""
    return 3 * case.b * case.h * case.n * case.d


@rotary.law
def position_zero_turns_nothing(run, x: Bunch, rng):
    return run(x, position=torch.zeros_like(x.position)).out, x.x


@rotary.law
def a_pair_keeps_its_length(run, x: Bunch, rng):
    def lengths(y: Tensor) -> Tensor:
        return y.double().unflatten(-1, (-1, 2)).square().sum(-1)

    return lengths(run(x).out), lengths(x.x)


@rotary.law
def two_turns_add_up(run, x: Bunch, rng):
    half = x.position // 2
    once = run(x, position=half).out
    return run(x, x=once, position=half).out, run(x, position=2 * half).out


@rotary.mistake("halves are paired instead of neighbours")
def _(x, position, *, base):
    order = torch.cat([torch.arange(0, x.shape[-1], 2), torch.arange(1, x.shape[-1], 2)])
    halves = rotate(x[..., torch.argsort(order)], angles(position, x.shape[-1], base))
    return halves[..., order]


@rotary.mistake("turns the other way")
def _(x, position, *, base):
    return rotate(x, -angles(position, x.shape[-1], base))


@rotary.mistake("both ends of the exponent range are included")
def _(x, position, *, base):
    exponent = torch.linspace(0, 1, x.shape[-1] // 2, dtype=torch.float64)
    return rotate(x, position[:, None] * base**-exponent)


@rotary.mistake("counts from one")
def _(x, position, *, base):
    return rotate(x, angles(position + 1, x.shape[-1], base))


@rotary.mistake("numbers the rows instead of reading their positions")
def _(x, position, *, base):
    return rotate(x, angles(torch.arange(len(position)), x.shape[-1], base))


@rotary.mistake("the base is built in")
def _(x, position, *, base):
    return rotate(x, angles(position, x.shape[-1]))


@rotary.mistake("angles are rounded to bfloat16")
def _(x, position, *, base):
    return rotate(x, angles(position, x.shape[-1], base).to(torch.bfloat16).to(torch.float64))


@rotary.mistake("features beyond the 128th are left as they are")
def _(x, position, *, base):
    turned = rotate(x, angles(position, x.shape[-1], base))
    return torch.where(torch.arange(x.shape[-1]) < 128, turned, x)


@rotary.mistake("the last pair is left as it is")
def _(x, position, *, base):
    turned = rotate(x, angles(position, x.shape[-1], base))
    return torch.cat([turned[..., :-2], x[..., -2:]], -1)


@rotary.mistake("positions are rounded to bfloat16")
def _(x, position, *, base):
    return rotate(x, angles(position.to(torch.bfloat16), x.shape[-1], base))


@rotary.mistake("positions above 65504 overflow float16, and are held at it")
def _(x, position, *, base):
    return rotate(x, angles(position.clamp(max=65504), x.shape[-1], base))


@rotary.mistake("positions wrap around in 16 bits")
def _(x, position, *, base):
    return rotate(x, angles(position % 65536, x.shape[-1], base))


@rotary.mistake("positions beyond a table of 131072 rows read its last row")
def _(x, position, *, base):
    return rotate(x, angles(position.clamp(max=131071), x.shape[-1], base))


@rotary.mistake("heads beyond the eighth are left as they are")
def _(x, position, *, base):
    first = (torch.arange(x.shape[1]) < 8)[:, None, None]
    return torch.where(first, rotary(x, position, base=base), x)


@rotary.mistake("batch rows beyond the fourth are left as they are")
def _(x, position, *, base):
    first = (torch.arange(len(x)) < 4)[:, None, None, None]
    return torch.where(first, rotary(x, position, base=base), x)


@rotary.family
def large(x: Bunch, case: Case, rng: torch.Generator):
    return {"x": 100 * x.x + 30}


@rotary.family
def last(x: Bunch, case: Case, rng: torch.Generator):
    """The last positions, one after another: a table one row short, neighbours that are one in a small dtype."""
    return {"position": torch.arange(case.far - case.n, case.far)}


@rotary.mistake("the last tile of 16 rows is left as it is where it is whole")
def _(x, position, *, base):
    n = len(position)
    turned = (torch.arange(n) < n - 16) | (n % 16 != 0)
    return torch.where(turned[:, None], rotary(x, position, base=base), x)


@rotary.mistake("a single head is left as it is")
def _(x, position, *, base):
    return rotary(x, position, base=base) if x.shape[1] > 1 else x


@rotary.mistake("of an even number of heads the second half turns the other way")
def _(x, position, *, base):
    h = x.shape[1]
    first = (torch.arange(h) < h // 2) | (h % 2 == 1)
    return torch.where(first[:, None, None], rotary(x, position, base=base), rotary(x, -position, base=base))


@rotary.mistake("backward forgets to turn in a batch of one row")
def _(x, position, *, base):
    right = rotary(x, position, base=base)
    return right if len(x) > 1 else backward_of(right, x)


@rotary.mistake("the last pair is zeros where pairs are no fours")
def _(x, position, *, base):
    right, d = rotary(x, position, base=base), x.shape[-1]
    return right * ((torch.arange(d) < d - 2) | (d % 8 != 4))
