"""NormalFloat in 4 bits (Dettmers et al. 2023, QLoRA, arXiv:2305.14314, eq. 4-6): a product with weights kept in 4 bits.

Weights are cut into blocks of 64, row after row, across the ends of rows; a block is divided by its largest magnitude, and each
weight becomes the nearest of 16 values. With `double`, the magnitudes are quantized too: less their mean, in blocks of 256, to
the nearest of the 256 values of the dynamic map. Where paper and bitsandbytes disagree, this side is taken:
- The 16 values are the float32 table of bitsandbytes and the paper's appendix E; the paper's eq. 4 gives others, and the
  quantiles that the table was made of, computed in float64, are off by up to 2e-7.
- The second quantization is bitsandbytes': mean and dynamic map (1 sign, up to 7 exponents, the rest linear); the paper says FP8.
- A value halfway between two has the lower code. A last, shorter block has a magnitude of its own; so do the last magnitudes.
- A block of zeros has code 7 and gives zeros. One block alone has no deviation from the mean, and keeps its magnitude.
- Weights come in float32, whatever dtype is tested, for they are frozen: they have no gradient, and x has that of the product
  with the weights that come back.

Rounding jumps halfway between two values, where honest float32 may fall on either side: so inputs keep clear of these places by
a thousandth of the gap, in 16 bits a seventh (what lies nearer is moved to the value), and magnitudes by 3e-5 of the largest
deviation (bitsandbytes' CPU kernel was seen to take the neighbour at 8e-6).
"""

from typing import Any

import torch
from torch import Tensor

from harness.spec import Bunch, Case, backward_of, spec

VALUES = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334),
    *(-0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)


@spec(
    "x[n d], w[e d]:float32 -> out[n e], code[e d], dequantized[e d]",
    n=7,
    d=24,
    e=16,
    cases={
        "plain": {},  # blocks do not end where rows do
        "one_token": {"n": 1, "d": 64},  # a path for one token alone, as in inference
        "one_token_wide": {"n": 1, "d": 192, "e": 70},
        "one_output": {"n": 17, "d": 72, "e": 1},  # and a last token alone in its tile
        "many_rows": {"n": 150, "d": 24, "e": 140},  # what is done for the first tiles alone
        "square": {"n": 32, "d": 24, "e": 24},  # a transposed w has the right shape; whole tiles of tokens
        "ragged": {"d": 13, "e": 17},  # a last block of 29, an odd number of codes
        "rows_are_blocks": {"d": 64, "e": 5},
        "one_block": {"d": 9, "e": 4},
        "wide": {"n": 3, "d": 300, "e": 20},  # more than a tile
        "small_blocks": {"block": 32},  # a block that is built in
        "large_blocks": {"block": 1024, "d": 128, "e": 20},  # blocks longer than rows, or than threads are many
        "double": {"double": True},
        "double_ragged": {"n": 1, "double": True, "d": 13, "e": 17},  # one token again
        "double_one_block": {"double": True, "d": 9, "e": 4},  # nothing deviates from the mean
        "double_whole": {"double": True, "block": 32, "d": 64, "e": 128, "n": 3},  # 256 magnitudes, a whole block
        "double_many": {"double": True, "block": 32, "d": 128, "e": 66, "n": 3},  # 264 magnitudes, in blocks of 256
    },
)
def nf4(x: Tensor, w: Tensor, *, block: int = 64, double: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    values = torch.tensor(VALUES, dtype=torch.float64, device=w.device)
    blocks = cut(w, block)
    magnitude = blocks.abs().amax(-1)
    code = nearest(blocks / divisor(magnitude)[:, None], values)
    kept = twice_quantized(magnitude) if double else magnitude
    dequantized = joined(values[code] * kept[:, None], w)
    return x @ dequantized.mT, joined(code.double(), w), dequantized


def cut(w: Tensor, block: int) -> Tensor:
    """Blocks [number, block] of all elements in a row, the last filled up with zeros."""
    flat = w.flatten()
    return torch.nn.functional.pad(flat, (0, -len(flat) % block)).unflatten(0, (-1, block))


def joined(blocks: Tensor, like: Tensor) -> Tensor:
    """The elements of blocks in the shape of `like`."""
    return blocks.flatten()[: like.numel()].reshape(like.shape)


def divisor(magnitude: Tensor) -> Tensor:
    return torch.where(magnitude > 0, magnitude, 1.0)


def nearest(x: Tensor, values: Tensor) -> Tensor:
    """The number of the nearest of the rising `values`: how many places halfway between two of them lie below."""
    halfway = (values[:-1] + values[1:]) / 2
    return (x[..., None] > halfway).sum(-1)


def twice_quantized(magnitude: Tensor) -> Tensor:
    """Magnitudes as they come back from 8 bits."""
    values, mean = dynamic_map(magnitude.device), magnitude.mean()
    blocks = cut(magnitude - mean, 256)
    deviation = blocks.abs().amax(-1, keepdim=True)
    return joined(values[nearest(blocks / divisor(deviation), values)] * deviation, magnitude) + mean


def dynamic_map(device: torch.device | None = None) -> Tensor:
    """256 rising values in (-1, 1]: for each exponent i = 0 ... 6, the middles of 2^i bins of [0.1, 1], times 10^(i - 6)."""
    positive = [10.0 ** (i - 6) * (0.1 + 0.9 * (bin + 0.5) / 2**i) for i in range(7) for bin in range(2**i)]
    return torch.tensor(sorted([*positive, *(-value for value in positive), 0.0, 1.0]), dtype=torch.float64, device=device)


_TWO_AXES = "blocks have two axes: the last is axis 1"
_ONE_AXIS = "what is cut has one axis"
_ZEROS = "it divides blocks of zeros, and 0 / anything is code 7, which gives 0"
_ONE_VALUE = "one of 16 values is one per cent off: less than the three budgets of bfloat16 that a row is allowed"
_SECOND = "less than one per cent of the magnitude: bfloat16 rounds more away"
_MAP = "dynamic_map: [*positive, *(-value for value in positive), 0.0, 1.0]"
EQUIVALENT = {
    "nf4: blocks.abs().amax(-1) -> blocks.abs().amax(1)": _TWO_AXES,
    "twice_quantized: blocks.abs().amax(-1, keepdim=True) -> blocks.abs().amax(1, keepdim=True)": _TWO_AXES,
    "divisor: torch.where(magnitude > 0, magnitude, 1.0) -> torch.where(magnitude > 0, magnitude, 1.01)": _ZEROS,
    "divisor: torch.where(magnitude > 0, magnitude, 1.0) -> torch.where(magnitude > 0, magnitude, -1.0)": _ZEROS,
    "cut: torch.nn.functional.pad(flat, (0, -len(flat) % block)).unflatten(0, (-1, block))"
    " -> torch.nn.functional.pad(flat, (0, -len(flat) % block)).unflatten(-1, (-1, block))": _ONE_AXIS,
    "dynamic_map: 10.0 ** (i - 6) -> (-10.0) ** (i - 6)": "it turns the sign of some values, and those of both signs are listed",
    "dynamic_map: range(7) -> range(8)": "what it adds lies beyond 1.03: nothing is nearer to that than to 1 or -0.993",
    f"{_MAP} -> [*positive, *(-value for value in positive), 1.0, 1.0]": (
        "zero becomes one of its neighbours, 5.5e-7 of the largest deviation: what lies there is nowhere clear of halfway"
    ),
    "VALUES: -0.18477343022823334 -> -0.18662116453051567, bfloat16": _ONE_VALUE,
    "VALUES: 0.16093020141124725 -> 0.16253950342535972, bfloat16": _ONE_VALUE,
    "dynamic_map: bin + 0.5 -> bin + 0.505, bfloat16": _SECOND,
    "dynamic_map: 0.9 * (bin + 0.5) -> 0.909 * (bin + 0.5), bfloat16": _SECOND,
    "dynamic_map: 0.1 + 0.9 * (bin + 0.5) / 2 ** i -> 0.101 + 0.9 * (bin + 0.5) / 2 ** i, bfloat16": _SECOND,
    f"{_MAP} -> [*positive, *(-value for value in positive), 0.0, 1.01], bfloat16": _SECOND,
    f"{_MAP} -> [*positive, *(-value for value in positive), 0.0, -1.0], bfloat16": _SECOND,
}


def clear_of_halfway(w: Tensor, case: Case) -> Tensor:
    """Weights, with those near halfway between two values moved to one of them, and magnitudes moved until they are clear too."""
    values, second = torch.tensor(VALUES, dtype=torch.float64), dynamic_map()
    gap = 1 / 7 if torch.finfo(case.dtype).bits == 16 else 1 / 1000
    blocks = cut(w.float().double(), case.block)
    for _ in range(50 if case.double else 1):
        magnitude = blocks.abs().amax(-1)
        scaled = blocks / divisor(magnitude)[:, None]
        apart = (scaled[..., None] - (values[:-1] + values[1:]) / 2).abs() / (values[1:] - values[:-1])
        blocks = torch.where(apart.amin(-1) < gap, values[nearest(scaled, values)] * magnitude[:, None], blocks)
        deviation = cut(magnitude - magnitude.mean(), 256)
        near = (deviation / divisor(deviation.abs().amax(-1))[:, None])[..., None] - (second[:-1] + second[1:]) / 2
        unclear = joined(near.abs().amin(-1) < 3e-5, magnitude) & (magnitude > 0)
        blocks = torch.where(unclear[:, None], 1.015625 * blocks, blocks)
    return joined(blocks, w)


@nf4.work(jumps=True, cases={"plain": {}, "double": {}}, d=512, e=512)
def _(case: Case) -> float:
    """The product."""
    return 2 * case.n * case.d * case.e


@nf4.family
def normal(x: Bunch, case: Case, rng: torch.Generator):
    return {"w": clear_of_halfway(x.w, case)}


@nf4.family
def large(x: Bunch, case: Case, rng: torch.Generator):
    return {"x": 4 * x.x + 3, "w": clear_of_halfway(4 * x.w + 3, case)}


@nf4.family
def outlier(x: Bunch, case: Case, rng: torch.Generator):
    """A few weights are far larger than the others of their block, and some blocks than other blocks."""
    loud = torch.rand(case.e, case.d, generator=rng) < 0.01
    block = torch.arange(case.e * case.d).reshape(case.e, case.d) // case.block
    return {"w": clear_of_halfway(torch.where(loud, 20 * x.w, x.w) * torch.where(block % 51 == 0, 30.0, 1.0), case)}


@nf4.family
def fading(x: Bunch, case: Case, rng: torch.Generator):
    """Blocks grow quieter: the last magnitudes lie close together, far from the first."""
    block = torch.arange(case.e * case.d).reshape(case.e, case.d) // case.block
    return {"w": clear_of_halfway(x.w / (1 + block / 8).square(), case)}


@nf4.family
def halfway(x: Bunch, case: Case, rng: torch.Generator):
    """Values of the table, and what lies halfway between zero and its neighbours, times powers of two: no arithmetic is inexact.

    The other places halfway are no float32 numbers."""
    values = torch.tensor(VALUES, dtype=torch.float64)
    values = torch.cat([values, values[[6, 8]].repeat(8) / 2])[torch.randint(32, (case.e, case.d), generator=rng)]
    number = torch.arange(case.e * case.d).reshape(case.e, case.d)
    return {"w": torch.where(number % case.block == 0, 1.0, values) * 2.0 ** (number // case.block % 3)}


@nf4.family
def silent(x: Bunch, case: Case, rng: torch.Generator):
    """The first block is all zeros, and so is every third."""
    block = torch.arange(case.e * case.d).reshape(case.e, case.d) // case.block
    return {"w": clear_of_halfway(torch.where(block % 3 == 0, 0.0, x.w), case)}


@nf4.family
def faint(x: Bunch, case: Case, rng: torch.Generator):
    """Blocks so faint that a least magnitude, or what is added to one, shows; x is loud, so that float16 holds the products."""
    block = torch.arange(case.e * case.d).reshape(case.e, case.d) // case.block
    return {"x": 2.0**8 * x.x, "w": clear_of_halfway(torch.where(block % 2 == 0, 2.0**-20, 2.0**-40) * x.w, case)}


@nf4.family
def negative(x: Bunch, case: Case, rng: torch.Generator):
    """The largest magnitudes are negative, and no positive weight comes near them."""
    return {"w": clear_of_halfway(torch.where(x.w > 0, x.w / 8, x.w), case)}


@nf4.law
def the_product_is_that_of_the_weights_that_come_back(run, x: Bunch, rng):
    unit = torch.eye(x.x.shape[1], dtype=x.x.dtype, device=x.x.device)
    answer = run(x, x=unit)
    return answer.out, answer.dequantized.mT


@nf4.law
def a_token_needs_no_others(run, x: Bunch, rng):
    row = rng.randrange(x.x.shape[0])
    return run(x).out[row : row + 1], run(x, x=x.x[row : row + 1]).out


@nf4.law
def a_power_of_two_comes_through(run, x: Bunch, rng):
    once, scaled = run(x), run(x, w=x.w / 4)
    return (once.code, once.dequantized / 4), (scaled.code, scaled.dequantized)


@nf4.law(when=lambda case: not case.double)
def what_came_back_comes_back(run, x: Bunch, rng):
    once = run(x)
    again = run(x, w=once.dequantized.float())
    return once.code, again.code


@nf4.law(when=lambda case: not case.double and 64 % case.block == 0 and case.e * case.d > case.block)
def a_block_needs_no_others(run, x: Bunch, rng):
    first = (torch.arange(x.w.numel(), device=x.w.device) < 64).reshape(x.w.shape)
    alone, whole = run(x, w=torch.where(first, x.w, 0.0)), run(x)
    return (alone.code * first, alone.dequantized * first), (whole.code * first, whole.dequantized * first)


def _by(name: str, **changes) -> None:
    """A mistake in one step: another function in the place of that of this name."""

    def wrong(x, w, *, block, double):
        steps: dict[str, Any] = {
            "values": lambda: torch.tensor(VALUES, dtype=torch.float64),
            "cut": cut,
            "joined": joined,
            "nearest": nearest,
        }
        steps |= {"magnitude": lambda blocks: blocks.abs().amax(-1), "divisor": divisor, "twice": twice_quantized, **changes}
        values = steps["values"]()
        blocks = steps["cut"](w, block)
        magnitude = steps["magnitude"](blocks)
        code = steps["nearest"](blocks / steps["divisor"](magnitude)[:, None], values)
        kept = steps["twice"](magnitude) if double else magnitude
        dequantized = steps["joined"](values[code] * kept[:, None], w)
        return x @ dequantized.mT, steps["joined"](code.double(), w), dequantized

    nf4.mistake(name)(wrong)


def _table(*values: float):
    return lambda: torch.tensor(sorted(values), dtype=torch.float64)


AF4 = (
    *(-1.0, -0.69441008, -0.51243739, -0.3736951, -0.25607552, -0.14982478, -0.04934812, 0.0),
    *(0.04273164, 0.12934483, 0.21961274, 0.31675666, 0.42563882, 0.55496234, 0.72424863, 1.0),
)


def _second(magnitude: Tensor, values: Tensor, mean: Tensor | float, block: int = 256) -> Tensor:
    """Magnitudes from 8 bits, with another table, mean or block."""
    blocks = cut(magnitude - mean, block)
    deviation = blocks.abs().amax(-1, keepdim=True)
    return joined(values[nearest(blocks / divisor(deviation), values)] * deviation, magnitude) + mean


_by("values are spaced evenly", values=_table(*(i / 7.5 - 1 for i in range(16))))
_by("values are those of FP4", values=_table(*(sign * i / 12 for i in (0, 0.5, 1, 2, 3, 4, 6, 12) for sign in (1, -1))))
_by("the table is turned: eight negative values, seven positive", values=_table(*(-value for value in VALUES)))
_by("values are those of AF4", values=_table(*AF4))
_by("magnitudes are those of the largest number", magnitude=lambda blocks: blocks.amax(-1).clamp(min=0))
_by("codes are of the next value below", nearest=lambda u, values: (u[..., None] >= values[1:] - 1e-7).sum(-1))
_by("codes are of the next value above", nearest=lambda u, values: (u[..., None] > values[:-1] + 1e-7).sum(-1))
_by("a block of zeros is divided by zero", divisor=lambda magnitude: magnitude, nearest=lambda u, v: nearest(u, v) * u.isfinite())
_by("magnitudes are 1e-5 at least", magnitude=lambda blocks: blocks.abs().amax(-1).clamp(min=1e-5))
_by("blocks begin again with each row", cut=lambda w, block: _of_rows(w, block), joined=lambda blocks, w: _to_rows(blocks, w))
_by("blocks run down columns", cut=lambda w, block: cut(w.mT, block), joined=lambda blocks, w: joined(blocks, w.mT).mT)
_by("the block is built in", cut=lambda w, block: cut(w, min(64, w.numel())))
_by("a shorter last block is taken for zeros", cut=lambda w, block: _without_rest(w, block))
_by("the mean of the magnitudes is not added back", twice=lambda m: twice_quantized(m) - m.mean())
_by("magnitudes are quantized as they are", twice=lambda m: _second(m, dynamic_map(), 0.0))
_by("magnitudes are quantized to 255 even steps", twice=lambda m: _second(m, torch.arange(-127, 128).double() / 127, m.mean()))
_by("magnitudes are quantized in one block", twice=lambda m: _second(m, dynamic_map(), m.mean(), max(256, len(m))))
_by("magnitudes are quantized in blocks of 64", twice=lambda m: _second(m, dynamic_map(), m.mean(), 64))
_by("magnitudes are not quantized", twice=lambda m: m)
_by("each 256 magnitudes have a mean of their own", twice=lambda m: torch.cat([twice_quantized(part) for part in m.split(256)]))
_by(
    "the mean of the magnitudes counts those that fill up the last block",
    twice=lambda m: _second(m, dynamic_map(), _filled_up(m)),
)
_by("blocks of more than 64 are divided in halves", cut=lambda w, block: cut(w, min(block, max(64, block // 2))))
_by("a magnitude that is the mean is divided by zero", twice=lambda m: twice_quantized(m) / (m - m.mean()).abs().amax().sign())


def _filled_up(magnitude: Tensor) -> Tensor:
    return cut(magnitude, 256).mean()


def _of_rows(w: Tensor, block: int) -> Tensor:
    """Blocks that end where rows do."""
    return torch.nn.functional.pad(w, (0, -w.shape[1] % block)).reshape(-1, block)


def _to_rows(blocks: Tensor, w: Tensor) -> Tensor:
    return blocks.reshape(len(w), -1)[:, : w.shape[1]]


def _without_rest(w: Tensor, block: int) -> Tensor:
    whole = w.numel() // block * block or w.numel()
    return cut(torch.where(torch.arange(w.numel()).reshape(w.shape) < whole, w, 0.0), block)


_by(
    "a last whole block of 256 magnitudes is taken for an empty one: they come back as their mean",
    twice=lambda m: twice_quantized(m) if len(m) % 256 else torch.cat([twice_quantized(m)[:-256], 0 * m[-256:] + m.mean()]),
)


@nf4.mistake("the two codes of a byte are exchanged")
def _(x, w, *, block, double):
    _, code, _ = nf4(x, w, block=block, double=double)
    even = code.numel() // 2 * 2
    swapped = torch.cat([code.flatten()[:even].unflatten(0, (-1, 2)).flip(-1).flatten(), code.flatten()[even:]])
    magnitude = cut(w, block).abs().amax(-1)
    kept = twice_quantized(magnitude) if double else magnitude
    values = torch.tensor(VALUES, dtype=torch.float64)[cut(swapped, block).long()]
    dequantized = joined(values * kept[:, None], w)
    return x @ dequantized.mT, code, dequantized


@nf4.mistake("the product is that of the weights that were given")
def _(x, w, *, block, double):
    _, code, dequantized = nf4(x, w, block=block, double=double)
    return x @ w.mT, code, dequantized


@nf4.mistake("backward takes the weights that were given")
def _(x, w, *, block, double):
    right, code, dequantized = nf4(x, w, block=block, double=double)
    wrong = x @ w.mT
    return backward_of(right, wrong), code, dequantized


@nf4.mistake("backward stops at the quantized weights")
def _(x, w, *, block, double):
    return nf4(x.detach() + 0 * x, w, block=block, double=double)


@nf4.mistake("one token alone meets whole tiles of 32 features only")
def _(x, w, *, block, double):
    right, code, dequantized = nf4(x, w, block=block, double=double)
    whole = torch.arange(x.shape[1]) < max(x.shape[1] // 32 * 32, 1)
    return (right if len(x) > 1 else (x * whole) @ dequantized.mT), code, dequantized


@nf4.mistake("one token alone meets magnitudes without their mean")
def _(x, w, *, block, double):
    right, code, dequantized = nf4(x, w, block=block, double=double)
    mean = cut(w, block).abs().amax(-1).mean() if double and len(x) == 1 else 0.0
    values = torch.tensor(VALUES, dtype=torch.float64)
    return right - x @ (values[code.long()] * mean).mT, code, dequantized


@nf4.mistake("tokens beyond the 128th give zeros")
def _(x, w, *, block, double):
    right, code, dequantized = nf4(x, w, block=block, double=double)
    return right * (torch.arange(len(x)) < 128)[:, None], code, dequantized


@nf4.mistake("output features beyond the 128th are zeros")
def _(x, w, *, block, double):
    right, code, dequantized = nf4(x, w, block=block, double=double)
    return right * (torch.arange(len(w)) < 128), code, dequantized


@nf4.mistake("w is taken for its transpose where it is square")
def _(x, w, *, block, double):
    right, code, dequantized = nf4(x, w, block=block, double=double)
    return x @ dequantized if len(w) == w.shape[1] else right, code, dequantized


@nf4.mistake("a single output feature meets its first block alone")
def _(x, w, *, block, double):
    right, code, dequantized = nf4(x, w, block=block, double=double)
    first = torch.arange(w.shape[1]) < block
    return right if len(w) > 1 else (x * first) @ dequantized.mT, code, dequantized


@nf4.mistake("one token alone meets the first 128 features, or gives the first 64")
def _(x, w, *, block, double):
    right, code, dequantized = nf4(x, w, block=block, double=double)
    met, given = torch.arange(x.shape[1]) < 128, torch.arange(len(w)) < 64
    return right if len(x) > 1 else ((x * met) @ dequantized.mT) * given, code, dequantized


@nf4.mistake("a last token alone in its tile of 16 gives zeros, and a last whole tile of 16 too")
def _(x, w, *, block, double):
    right, code, dequantized = nf4(x, w, block=block, double=double)
    n = len(x)
    left_out = {0: 16, 1: 1 if n > 1 else 0}.get(n % 16, 0)
    return right * (torch.arange(n) < n - left_out)[:, None], code, dequantized
