"""Sinusoidal position encoding (Vaswani et al. 2017, arXiv:1706.03762, section 3.5): a row of sines and cosines per position.

Feature 2i is sin(p * base^(-2i/d)), feature 2i + 1 its cosine. Where papers and libraries disagree, this side is taken:
- Sines and cosines alternate, as in the paper and most tutorials; Marian and RoFormer put all sines before all cosines.
- Frequencies are base^(-2i/d); tensor2tensor, fairseq and M2M100 spread them over base^(-i/(d/2 - 1)), both ends included.
- Positions are given and start where the caller says; fairseq's first is the padding index plus one.
- The row alone: it is the model that multiplies its embeddings by sqrt(d) before it adds this.
- Angles are exact; an implementation may make them of float32 positions and frequencies, as all of these libraries do, and be
  off by some 2^-24 of each angle (0.06 radians at position 1,000,000), but not by more.
"""

import torch
from torch import Tensor

from harness.spec import Bunch, Case, spec


@spec(
    "position[n]:int<far -> out[n d]",
    n=37,
    d=16,
    far=64,
    cases={
        "plain": {},
        "one_step": {"n": 1},
        "narrow": {"d": 2},
        "wide": {"n": 19, "d": 1100},  # more than a tile of 512, or of 1024
        "whole_tiles": {"n": 64, "d": 64},  # no ragged tile, of rows or of features
        "far": {"far": 4096},  # a table that ends too early, angles in a small dtype
        "million": {"far": 1_000_000, "n": 19, "d": 6},  # a table of any trained length, positions in 16 bits
        "many_rows": {"n": 530, "far": 1200},  # what is done for the first tiles of rows alone
        "base": {"base": 500.0},  # a base that is built in
    },
)
def sinusoidal(position: Tensor, *, d: int = 16, base: float = 10000.0) -> Tensor:
    return alternate(angles(position, d, base))


def angles(position: Tensor, d: int, base: float) -> Tensor:
    """p * base^(-2i/d): [n d/2]."""
    frequency = base ** (-torch.arange(0, d, 2, dtype=torch.float64, device=position.device) / d)
    return position.double()[:, None] * frequency


def alternate(angle: Tensor) -> Tensor:
    """Sine and cosine of each angle, side by side: [n d]."""
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(-2)


@sinusoidal.work(along=("n", "far"), d=256)
def _(case: Case) -> float:
    return case.n * case.d


@sinusoidal.family
def last(x: Bunch, case: Case, rng: torch.Generator):
    """The last positions, one after another: a table one row short, neighbours that are one in a small dtype."""
    return {"position": torch.arange(case.far - case.n, case.far)}


@sinusoidal.law
def position_zero_is_zeros_and_ones(run, x: Bunch, rng):
    out = run(x, position=torch.zeros_like(x.position)).out
    expected = torch.zeros_like(out).unflatten(-1, (-1, 2))
    return out, (expected + torch.tensor([0.0, 1.0], dtype=out.dtype, device=out.device)).flatten(-2)


@sinusoidal.law
def each_pair_lies_on_the_unit_circle(run, x: Bunch, rng):
    out = run(x).out
    lengths = out.double().unflatten(-1, (-1, 2)).square().sum(-1)
    return lengths, torch.ones_like(lengths)


@sinusoidal.law(when=lambda case: case.n > 1)
def rows_are_independent(run, x: Bunch, rng):
    # First and last stay: rows that are remembered by these and by their number are then of other positions.
    last = len(x.position) - 1
    order = [0, *rng.sample(range(1, last), last - 1), last]
    return run(x, position=x.position[order]).out, run(x).out[order]


@sinusoidal.mistake("all sines come before all cosines")
def _(position, *, d, base):
    angle = angles(position, d, base)
    return torch.cat([angle.sin(), angle.cos()], -1)


@sinusoidal.mistake("cosines come first")
def _(position, *, d, base):
    return alternate(angles(position, d, base)).unflatten(-1, (-1, 2)).flip(-1).flatten(-2)


@sinusoidal.mistake("both ends of the range of frequencies are included")
def _(position, *, d, base):
    frequency = base ** -torch.linspace(0, 1, d // 2, dtype=torch.float64)
    return alternate(position.double()[:, None] * frequency)


@sinusoidal.mistake("the exponent is i/d instead of 2i/d")
def _(position, *, d, base):
    frequency = base ** (-torch.arange(d // 2, dtype=torch.float64) / d)
    return alternate(position.double()[:, None] * frequency)


@sinusoidal.mistake("sine and cosine of a pair have frequencies of their own")
def _(position, *, d, base):
    frequency = base ** (-torch.arange(d, dtype=torch.float64) / d)
    angle = position.double()[:, None] * frequency
    return torch.where(torch.arange(d) % 2 == 0, angle.sin(), angle.cos())


@sinusoidal.mistake("frequencies rise")
def _(position, *, d, base):
    return alternate(angles(position, d, base).flip(-1))


@sinusoidal.mistake("counts from one")
def _(position, *, d, base):
    return alternate(angles(position + 1, d, base))


@sinusoidal.mistake("rows are numbered instead of reading their positions")
def _(position, *, d, base):
    return alternate(angles(torch.arange(len(position)), d, base))


@sinusoidal.mistake("positions beyond a table of 512 rows read its last row")
def _(position, *, d, base):
    return alternate(angles(position.clamp(max=511), d, base))


@sinusoidal.mistake("the base is built in")
def _(position, *, d, base):
    return alternate(angles(position, d, 10000.0))


@sinusoidal.mistake("angles are rounded to bfloat16")
def _(position, *, d, base):
    return alternate(angles(position, d, base).to(torch.bfloat16).double())


@sinusoidal.mistake("frequencies are rounded to float16")
def _(position, *, d, base):
    return alternate(position.double()[:, None] * angles(torch.ones(1), d, base).half().double())


@sinusoidal.mistake("rows are scaled to length one")
def _(position, *, d, base):
    return alternate(angles(position, d, base)) * (2 / d) ** 0.5 if d > 2 else alternate(angles(position, d, base))


@sinusoidal.mistake("positions are rounded to bfloat16")
def _(position, *, d, base):
    return alternate(angles(position.to(torch.bfloat16), d, base))


@sinusoidal.mistake("positions above 65504 overflow float16, and are held at it")
def _(position, *, d, base):
    return alternate(angles(position.clamp(max=65504), d, base))


@sinusoidal.mistake("positions wrap around in 16 bits")
def _(position, *, d, base):
    return alternate(angles(position % 65536, d, base))


@sinusoidal.mistake("positions beyond a table of 131072 rows read its last row")
def _(position, *, d, base):
    return alternate(angles(position.clamp(max=131071), d, base))


@sinusoidal.mistake("features beyond the 512th are zeros")
def _(position, *, d, base):
    return sinusoidal(position, d=d, base=base) * (torch.arange(d) < 512)


@sinusoidal.mistake("rows beyond the 256th are read from the start again")
def _(position, *, d, base):
    return sinusoidal(position[torch.arange(len(position)) % 256], d=d, base=base)


@sinusoidal.mistake("the last tile of 16 rows is zeros where it is whole")
def _(position, *, d, base):
    n = len(position)
    return sinusoidal(position, d=d, base=base) * ((torch.arange(n) < n - 16) | (n % 16 != 0))[:, None]


@sinusoidal.mistake("the last tile of 64 features is zeros where it is whole")
def _(position, *, d, base):
    return sinusoidal(position, d=d, base=base) * ((torch.arange(d) < d - 64) | (d % 64 != 0))
