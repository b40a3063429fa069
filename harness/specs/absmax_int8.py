"""The product of two int8 matrices with vector-wise absmax scales (Dettmers et al. 2022, arXiv:2208.07339, sections 2.1 and 3.1).

Each row of x and of w is divided by its largest magnitude / 127 and rounded; the codes are multiplied exactly, in whole numbers,
and the product is scaled back. Where papers and libraries disagree, this side is taken:
- 127 steps on either side: the code -128 is never used.
- Halves are rounded to even, as by torch, NumPy and CUDA's rint; `floor(x + 1/2)` and `trunc(x + 1/2)` are other code.
- Rows of zeros have codes and products 0. bitsandbytes multiplies by 127 / 0 there.
- One scale per row of x (token) and per row of w (output feature); other code takes one per tensor, or zero points.
- Gradients are those of the function as it stands, which between ties comes from the scales alone. Nobody trains with them, and
  code that passes gradients straight through computes another component: an implementation claims no gradients.

Rounding jumps at a tie, where honest float32 may fall on either side: so inputs keep a thousandth of a code away from ties, in 16
bits a twentieth (what lies nearer is moved to the code below), but in the family `ties`, where scales are powers of two and no
arithmetic is inexact.
"""

import torch
from torch import Tensor

from harness.spec import Bunch, Case, spec


@spec(
    "x[n d], w[e d] -> out[n e], x_code[n d], w_code[e d]",
    n=7,
    d=48,
    e=5,
    cases={
        "plain": {},
        "one_token": {"n": 1},
        "one_wide": {"d": 1},  # every code is 127 or -127
        "one_output": {"e": 1},
        "many_rows": {"n": 321, "d": 16, "e": 140},  # what is done for the first tiles alone; a last token alone in its tile
        "ragged": {"d": 37, "e": 11},  # no multiple of a vector or a tile
        "wide": {"d": 1100, "n": 3},  # sums far beyond 16 bits, more than a tile of 1024
        "square": {"n": 64, "d": 64, "e": 64},  # scales of the wrong axis have the right shape; a path for whole tiles alone
    },
)
def absmax_int8(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    x_code, x_scale = quantize(x)
    w_code, w_scale = quantize(w)
    return x_scale * (x_code @ w_code.mT) * w_scale.mT, x_code, w_code


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Codes -127 ... 127 of each row, and its scale [... 1]: x is about code * scale."""
    top = x.abs().amax(-1, keepdim=True)
    scale = torch.where(top > 0, top, 1.0) / 127
    return torch.round(x / scale), scale


_ZEROS = "it divides rows of zeros, and 0 / anything is code 0, whose product is 0"
EQUIVALENT = {
    "quantize: x.abs().amax(-1, keepdim=True) -> x.abs().amax(1, keepdim=True)": "x has two axes: the last is axis 1",
    "quantize: torch.where(top > 0, top, 1.0) -> torch.where(top > 0, top, 1.01)": _ZEROS,
    "quantize: torch.where(top > 0, top, 1.0) -> torch.where(top > 0, top, -1.0)": _ZEROS,
}


def clear_of_ties(x: Tensor, dtype: torch.dtype) -> Tensor:
    """The rows of `x` in the tested dtype, with what lies near a tie moved to the code below."""
    x = x.to(dtype).double()
    _, scale = quantize(x)
    below, near = (x / scale).floor(), 0.05 if torch.finfo(dtype).bits == 16 else 0.001
    return torch.where((x / scale - below - 0.5).abs() < near, below * scale, x)


def _cleared(case: Case, x: Tensor, w: Tensor) -> dict[str, Tensor]:
    return {"x": clear_of_ties(x, case.dtype), "w": clear_of_ties(w, case.dtype)}


@absmax_int8.work(jumps=True, d=512, e=512)
def _(case: Case) -> float:
    """The product."""
    return 2 * case.n * case.d * case.e


@absmax_int8.family
def normal(x: Bunch, case: Case, rng: torch.Generator):
    return _cleared(case, x.x, x.w)


@absmax_int8.family
def large(x: Bunch, case: Case, rng: torch.Generator):
    return _cleared(case, 4 * x.x + 3, 4 * x.w + 3)


@absmax_int8.family
def outlier(x: Bunch, case: Case, rng: torch.Generator):
    """One loud token, one loud feature, one loud row of weights: what shares a scale with them has few codes left."""
    token, feature = torch.arange(case.n)[:, None] == 0, torch.arange(case.d) == case.d - 1
    loud = torch.where(token, 100.0, 1.0) * torch.where(feature, 20.0, 1.0)
    return _cleared(case, x.x * loud, x.w * torch.where(torch.arange(case.e)[:, None] == 1, 50.0, 1.0))


@absmax_int8.family
def silent(x: Bunch, case: Case, rng: torch.Generator):
    """Every other row is all zeros."""
    return _cleared(case, x.x * (torch.arange(case.n) % 2)[:, None], x.w * (torch.arange(case.e) % 2 == 0)[:, None])


@absmax_int8.family
def faint(x: Bunch, case: Case, rng: torch.Generator):
    """Rows so faint that a least scale, or what is added to a scale, shows."""
    return _cleared(case, x.x * faintness(case, case.n), x.w * faintness(case, case.e))


def faintness(case: Case, rows: int) -> Tensor:
    """Factors [rows 1] from 1e-6 to 1e-15; float16 has no such numbers: there, 5e-4, whose inverse scale it cannot hold."""
    return (2.0 ** -(20 + 15 * (torch.arange(rows) % 3)))[:, None].double().clamp(min=8 * torch.finfo(case.dtype).tiny)


@absmax_int8.family
def negative(x: Bunch, case: Case, rng: torch.Generator):
    """The largest magnitude of a row is negative, and no positive number comes near it."""
    return _cleared(case, -x.x.abs(), torch.where(torch.arange(case.d) == 0, -2 * x.w.abs().amax(-1, keepdim=True), x.w))


@absmax_int8.family
def ties(x: Bunch, case: Case, rng: torch.Generator):
    """Whole and half codes of scales that are powers of two."""
    return {"x": halves((case.n, case.d), 2.0**-5, rng), "w": halves((case.e, case.d), 2.0**-9, rng)}


def halves(shape: tuple[int, int], scale: float, rng: torch.Generator) -> Tensor:
    """Multiples of scale / 2 below 64 scales; one element of each row is 127 scales."""
    code = torch.randint(-127, 128, shape, generator=rng) / 2
    return scale * torch.where(torch.arange(shape[1]) == torch.randint(shape[1], (shape[0], 1), generator=rng), 127.0, code)


@absmax_int8.law
def a_token_needs_no_others(run, x: Bunch, rng):
    row = rng.randrange(x.x.shape[0])
    whole, alone = run(x), run(x, x=x.x[row : row + 1])
    return (whole.out[row : row + 1], whole.x_code[row : row + 1]), (alone.out, alone.x_code)


@absmax_int8.law
def a_power_of_two_comes_through(run, x: Bunch, rng):
    once, scaled = run(x), run(x, x=x.x / 4, w=2 * x.w)
    return (once.out / 2, once.x_code, once.w_code), (scaled.out, scaled.x_code, scaled.w_code)


@absmax_int8.law
def the_sign_comes_through(run, x: Bunch, rng):
    once, turned = run(x), run(x, x=-x.x)
    return (-once.out, -once.x_code), (turned.out, turned.x_code)


@absmax_int8.law
def permuting_features_changes_nothing(run, x: Bunch, rng):
    order = rng.sample(range(x.x.shape[1]), x.x.shape[1])
    once, permuted = run(x), run(x, x=x.x[:, order], w=x.w[:, order])
    return (once.out, once.x_code[:, order]), (permuted.out, permuted.x_code)


def _by(name: str, change) -> None:
    """A mistake of codes: `change(x)` gives the wrong codes of rows, and their scale."""

    def wrong(x, w):
        (x_code, x_scale), (w_code, w_scale) = change(x), change(w)
        return x_scale * (x_code @ w_code.mT) * w_scale.mT, x_code, w_code

    absmax_int8.mistake(name)(wrong)


def _scaled(x: Tensor, top: Tensor, whole=torch.round, steps: int = 127) -> tuple[Tensor, Tensor]:
    """Codes for a largest magnitude `top`, with another way to whole numbers or another number of steps."""
    scale = torch.where(top > 0, top, 1.0) / steps
    return whole(x / scale), scale.expand(x.shape[0], 1)


def _top(x: Tensor) -> Tensor:
    return x.abs().amax(-1, keepdim=True)


_by("one scale serves the whole tensor", lambda x: _scaled(x, x.abs().amax().reshape(1, 1)))
_by("the scale is that of the largest number, not of the largest magnitude", lambda x: _scaled(x, x.amax(-1, keepdim=True)))
_by("there are 128 steps", lambda x: _scaled(x, _top(x), steps=128))
_by("there are 7 bits", lambda x: _scaled(x, _top(x), steps=63))
_by("codes are cut off instead of rounded", lambda x: _scaled(x, _top(x), torch.trunc))
_by("codes are rounded down", lambda x: _scaled(x, _top(x), torch.floor))
_by("halves are rounded up", lambda x: _scaled(x, _top(x), lambda u: torch.floor(u + 0.5)))
_by("halves are rounded away from zero", lambda x: _scaled(x, _top(x), lambda u: u.sign() * torch.floor(u.abs() + 0.5)))
_by("a row of zeros is divided by zero", lambda x: (torch.round(x / (_top(x) / 127)), _top(x) / 127))
_by("a largest magnitude counts as 1e-5 at least", lambda x: _scaled(x, _top(x).clamp(min=1e-5)))
_by("the inverse scale overflows float16, and is held at 65504", lambda x: _held(x))
_by("features beyond the 1024th do not count for the scale", lambda x: _scaled(x, _top(x[:, :1024]), _in_int8))
_by(
    "rows beyond the 256th have the scale of that one",
    lambda x: _scaled(x, _top(x)[torch.arange(len(x)).clamp(max=255)], _in_int8),
)
_by("the last features beyond a multiple of 16 do not count for the scale", lambda x: _scaled(x, _top(_whole(x))))


def _held(x: Tensor) -> tuple[Tensor, Tensor]:
    scale = quantize(x)[1]
    return torch.round(x * (1 / scale).clamp(max=65504)), scale


def _in_int8(u: Tensor) -> Tensor:
    return torch.round(u).clamp(-127, 127)


def _whole(x: Tensor) -> Tensor:
    return x[:, : max(1, x.shape[1] // 16 * 16)]


@absmax_int8.mistake("w is quantized by input feature")
def _(x, w):
    x_code, x_scale = quantize(x)
    w_code, w_scale = quantize(w.mT)
    return x_scale * (x_code @ (w_code * w_scale)), x_code, w_code.mT


@absmax_int8.mistake("output features beyond the 128th are zeros")
def _(x, w):
    out, x_code, w_code = absmax_int8(x, w)
    return out * (torch.arange(len(w)) < 128), x_code, w_code


@absmax_int8.mistake("w is taken for its transpose where it is square")
def _(x, w):
    (x_code, x_scale), (w_code, w_scale) = quantize(x), quantize(w)
    turned = w_code if w.shape[0] == w.shape[1] else w_code.mT
    return x_scale * (x_code @ turned) * w_scale.mT, x_code, w_code


@absmax_int8.mistake("sums wrap around at 16 bits")
def _(x, w):
    (x_code, x_scale), (w_code, w_scale) = quantize(x), quantize(w)
    return x_scale * ((x_code @ w_code.mT + 2**15) % 2**16 - 2**15) * w_scale.mT, x_code, w_code


@absmax_int8.mistake("sums stop at the ends of 16 bits")
def _(x, w):
    (x_code, x_scale), (w_code, w_scale) = quantize(x), quantize(w)
    return x_scale * (x_code @ w_code.mT).clamp(-(2**15), 2**15 - 1) * w_scale.mT, x_code, w_code


@absmax_int8.mistake("the scale of w is left out")
def _(x, w):
    (x_code, x_scale), (w_code, _) = quantize(x), quantize(w)
    return x_scale * (x_code @ w_code.mT), x_code, w_code


@absmax_int8.mistake("the product is divided by 127 once")
def _(x, w):
    out, x_code, w_code = absmax_int8(x, w)
    return 127 * out, x_code, w_code


@absmax_int8.mistake("nothing is quantized in the product")
def _(x, w):
    _, x_code, w_code = absmax_int8(x, w)
    return x @ w.mT, x_code, w_code


@absmax_int8.mistake("only w is quantized in the product")
def _(x, w):
    _, x_code, w_code = absmax_int8(x, w)
    return x @ (w_code * quantize(w)[1]).mT, x_code, w_code


@absmax_int8.mistake("a single output feature has no scale")
def _(x, w):
    out, x_code, w_code = absmax_int8(x, w)
    return out if len(w) > 1 else out / quantize(w)[1].mT, x_code, w_code


@absmax_int8.mistake("a last token alone in its tile of 64 gives zeros")
def _(x, w):
    out, x_code, w_code = absmax_int8(x, w)
    n = len(x)
    return out * ((torch.arange(n) < n - 1) | (n % 64 != 1) | (n == 1))[:, None], x_code, w_code
