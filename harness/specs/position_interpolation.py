"""Position interpolation (Chen et al. 2023, arXiv:2306.15595, eq. 4): rotary embedding whose positions are divided by a factor.

Where papers and libraries disagree, this side is taken:
- The angle of pair i at position p is p / factor * base^(-2i/d): all pairs slow down alike. NTK-aware scaling changes the base
  instead (the first pair keeps its speed), NTK-by-parts and YaRN mix the two: they are other components.
- Positions are divided, never rounded: 3 / 4 stays 0.75.
- `factor` is the ratio of the new length to the trained one, at least 1, as transformers' `linear` scaling and
  rotary-embedding-torch's `interpolate_factor` say it; some code passes its inverse.
- Pairs are adjacent, as in `rotary`, and angles may be as far off as there: what float32 loses of position / factor and of its
  product with a frequency.
"""

import torch
from torch import Tensor

from harness.spec import Bunch, Case, backward_of, spec
from harness.specs.rotary import angles, rotary, rotate


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
        "far": {"far": 4096, "factor": 16.0},  # the paper's; angles in a small dtype
        "million": {"far": 1_000_000, "factor": 7.8125, "n": 19},  # from 128,000 to a million
        "no_factor": {"factor": 1.0},  # rotary embedding
        "fraction": {"factor": 2.5},  # a factor that is taken for a whole number
        "many_rows": {"n": 150, "b": 1, "h": 9, "far": 400},  # what is done for the first tiles of rows, or heads, alone
        "base": {"base": 500.0},  # a base that is built in
    },
)
def position_interpolation(x: Tensor, position: Tensor, *, factor: float = 4.0, base: float = 10000.0) -> Tensor:
    return rotate(x, angles(position.double() / factor, x.shape[-1], base))


@position_interpolation.work(along=("n", "far"), b=1, h=4, d=64)
def _(case: Case) -> float:
    """Four products and two sums for each pair of neighbours."""
    return 3 * case.b * case.h * case.n * case.d


# It is a rotation still: what holds for rotary holds here.
for shared in ("large", "last"):
    position_interpolation.family(rotary.families[shared])
for shared in ("position_zero_turns_nothing", "a_pair_keeps_its_length", "two_turns_add_up"):
    position_interpolation.law(rotary.laws[shared].check)


@position_interpolation.law
def a_factor_of_four_divides_positions_by_four(run, x: Bunch, rng):
    near = x.position // 4
    return run(x, position=4 * near, factor=4.0).out, run(x, position=near, factor=1.0).out


@position_interpolation.mistake("positions are multiplied by the factor")
def _(x, position, *, factor, base):
    return rotate(x, angles(position.double() * factor, x.shape[-1], base))


@position_interpolation.mistake("the factor is ignored")
def _(x, position, *, factor, base):
    return rotate(x, angles(position, x.shape[-1], base))


@position_interpolation.mistake("positions are rounded down after division")
def _(x, position, *, factor, base):
    return rotate(x, angles((position / factor).floor(), x.shape[-1], base))


@position_interpolation.mistake("the factor is rounded to a whole number")
def _(x, position, *, factor, base):
    return rotate(x, angles(position.double() / round(factor), x.shape[-1], base))


@position_interpolation.mistake("the factor is built in")
def _(x, position, *, factor, base):
    return position_interpolation(x, position, base=base)


@position_interpolation.mistake("the base grows instead, as in NTK-aware scaling")
def _(x, position, *, factor, base):
    d = x.shape[-1]
    grown = base * factor ** (d / (d - 2)) if d > 2 else base
    return rotate(x, angles(position, d, grown))


@position_interpolation.mistake("the base is multiplied by the factor")
def _(x, position, *, factor, base):
    return rotate(x, angles(position, x.shape[-1], base * factor))


@position_interpolation.mistake("the first pair keeps its speed")
def _(x, position, *, factor, base):
    slow, fast = angles(position.double() / factor, x.shape[-1], base), angles(position, x.shape[-1], base)
    return rotate(x, torch.cat([fast[:, :1], slow[:, 1:]], -1))


@position_interpolation.mistake("positions within the trained length are left as they are")
def _(x, position, *, factor, base):
    trained = 32
    squeezed = torch.where(position < trained, position.double(), position / factor)
    return rotate(x, angles(squeezed, x.shape[-1], base))


@position_interpolation.mistake("vectors are divided by the factor too")
def _(x, position, *, factor, base):
    return rotate(x / factor, angles(position.double() / factor, x.shape[-1], base))


@position_interpolation.mistake("halves are paired instead of neighbours")
def _(x, position, *, factor, base):
    order = torch.cat([torch.arange(0, x.shape[-1], 2), torch.arange(1, x.shape[-1], 2)])
    halves = rotate(x[..., torch.argsort(order)], angles(position.double() / factor, x.shape[-1], base))
    return halves[..., order]


@position_interpolation.mistake("counts from one")
def _(x, position, *, factor, base):
    return rotate(x, angles((position + 1.0) / factor, x.shape[-1], base))


@position_interpolation.mistake("the base is built in")
def _(x, position, *, factor, base):
    return position_interpolation(x, position, factor=factor)


@position_interpolation.mistake("positions are rounded to bfloat16")
def _(x, position, *, factor, base):
    return rotate(x, angles((position / factor).to(torch.bfloat16).double(), x.shape[-1], base))


@position_interpolation.mistake("positions above 65504 overflow float16, and are held at it")
def _(x, position, *, factor, base):
    return rotate(x, angles(position.clamp(max=65504) / factor, x.shape[-1], base))


@position_interpolation.mistake("divided positions beyond a table of 65536 rows read its last row")
def _(x, position, *, factor, base):
    return rotate(x, angles((position.double() / factor).clamp(max=65535), x.shape[-1], base))


@position_interpolation.mistake("positions wrap around in 16 bits")
def _(x, position, *, factor, base):
    return rotate(x, angles(position % 65536 / factor, x.shape[-1], base))


@position_interpolation.mistake("heads beyond the eighth are left as they are")
def _(x, position, *, factor, base):
    first = (torch.arange(x.shape[1]) < 8)[:, None, None]
    return torch.where(first, position_interpolation(x, position, factor=factor, base=base), x)


@position_interpolation.mistake("the last tile of 16 rows is left as it is where it is whole")
def _(x, position, *, factor, base):
    n = len(position)
    turned = (torch.arange(n) < n - 16) | (n % 16 != 0)
    return torch.where(turned[:, None], position_interpolation(x, position, factor=factor, base=base), x)


@position_interpolation.mistake("a single head is left as it is")
def _(x, position, *, factor, base):
    return position_interpolation(x, position, factor=factor, base=base) if x.shape[1] > 1 else x


@position_interpolation.mistake("of an even number of heads the second half turns the other way")
def _(x, position, *, factor, base):
    h = x.shape[1]
    first = (torch.arange(h) < h // 2) | (h % 2 == 1)
    return torch.where(
        first[:, None, None],
        position_interpolation(x, position, factor=factor, base=base),
        position_interpolation(x, -position, factor=factor, base=base),
    )


@position_interpolation.mistake("backward forgets to turn in a batch of one row")
def _(x, position, *, factor, base):
    right = position_interpolation(x, position, factor=factor, base=base)
    return right if len(x) > 1 else backward_of(right, x)


@position_interpolation.mistake("the last pair is zeros where pairs are no fours")
def _(x, position, *, factor, base):
    right, d = position_interpolation(x, position, factor=factor, base=base), x.shape[-1]
    return right * ((torch.arange(d) < d - 2) | (d % 8 != 4))
