"""Rotary embedding in a Triton kernel, with angles in 64-bit fixed point: exact reduction at every position.

A pair's step from one position to the next is kept in units of 2^-64 turns. Position times step, a product of integers that
wraps around, is the angle less all whole turns; what of it is less than an eighth of a turn goes to float32, to polynomials.
Backward turns the other way.
"""

from functools import cache
from math import pi

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

requires = ("triton",)
devices = ("cpu", "cuda")
gradients = True
compiles = {"width_128": {"n": 512, "d": 128}}
deterministic = True
grows = {"time": "N", "memory": "N"}

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)
# Heads that share the sines and cosines of a program, and pairs in its tile.
HEADS, PAIRS = 2, 1024


def prepare(case):
    @cache
    def steps(device: torch.device) -> Tensor:
        return torch.tensor(turns(case.d, case.base), device=device)

    def run(x: Tensor, position: Tensor) -> Tensor:
        return Rotary.apply(x, position, steps(x.device))

    return run


def turns(d: int, base: float) -> list[int]:
    """How far each pair turns from one position to the next, as a signed number of 2^-64 turns."""
    steps = (int(base ** (-2 * i / d) / (2 * pi) % 1 * 2**64) for i in range(d // 2))
    return [step - 2**64 if step >= 2**63 else step for step in steps]


class Rotary(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, position, steps):
        ctx.save_for_backward(position, steps)
        return turned(x, position, steps, backward=False)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        return turned(d_out, *ctx.saved_tensors, backward=True), None, None


def turned(x: Tensor, position: Tensor, steps: Tensor, backward: bool) -> Tensor:
    b, h, n, d = x.shape
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    pairs = min(triton.next_power_of_2(d // 2), PAIRS)
    rows = PAIRS // pairs if pairs >= 16 else 64
    grid = (triton.cdiv(n, rows), b * triton.cdiv(h, HEADS), triton.cdiv(d // 2, pairs))
    turn[grid](
        *(x, position, steps, out, h, n, d, *x.stride(), position.stride(0)),
        BACKWARD=backward,
        ROWS=rows,
        PAIRS=pairs,
        HEADS=HEADS,
        num_warps=4,
    )
    return out


@triton.jit
def turn(
    x,
    position,
    steps,
    out,
    h,
    n,
    d,
    x_b,
    x_h,
    x_n,
    x_d,
    position_n,
    BACKWARD: tl.constexpr,
    ROWS: tl.constexpr,
    PAIRS: tl.constexpr,
    HEADS: tl.constexpr,
):
    groups = tl.cdiv(h, HEADS)
    batch, first = (tl.program_id(1) // groups).to(tl.int64), tl.program_id(1) % groups * HEADS
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    pair = tl.program_id(2) * PAIRS + tl.arange(0, PAIRS)
    place = tl.load(position + row * position_n, row < n, 0).to(tl.int64)
    step = tl.load(steps + pair, pair < d // 2, 0)
    cos, sin = cos_and_sin(place[:, None] * step[None, :])
    if BACKWARD:
        sin = -sin
    feature = tl.program_id(2) * 2 * PAIRS + tl.arange(0, 2 * PAIRS)
    here = (row < n)[:, None] & (feature < d)[None, :]
    row = row.to(tl.int64)
    for head in range(first, tl.minimum(first + HEADS, h)):
        at = x + batch * x_b + head * x_h + row[:, None] * x_n + feature[None, :] * x_d
        wide = tl.load(at, here, 0.0).to(tl.float32)
        even, odd = tl.split(tl.reshape(wide, [ROWS, PAIRS, 2]))
        both = tl.reshape(tl.join(even * cos - odd * sin, even * sin + odd * cos), [ROWS, 2 * PAIRS])
        to = out + ((batch * h + head) * n + row[:, None]) * d + feature[None, :]
        tl.store(to, nearest(both, out.dtype.element_ty), here)


@triton.jit
def cos_and_sin(turns):
    """Of signed 2^-64 turns. The polynomials are those of Cephes' sinf and cosf, off by an ulp at most."""
    quarter = (turns + (1 << 61)) >> 62
    angle = (turns - (quarter << 62)).to(tl.float32) * 3.4061215800865545e-19  # 2 pi / 2^64
    square = angle * angle
    sine = angle + angle * square * (-1.6666654611e-1 + square * (8.3321608736e-3 + square * -1.9515295891e-4))
    cosine = 4.166664568298827e-2 + square * (-1.388731625493765e-3 + square * 2.443315711809948e-5)
    cosine = 1 - 0.5 * square + square * square * cosine
    swapped = (quarter & 1) != 0
    cos, sin = tl.where(swapped, sine, cosine), tl.where(swapped, cosine, sine)
    return tl.where(((quarter + 1) & 2) != 0, -cos, cos), tl.where((quarter & 2) != 0, -sin, sin)


@triton.jit
def nearest(x, dtype: tl.constexpr):
    """float32 rounded to nearest in another dtype; Triton's interpreter would cut bits off for bfloat16."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        x = (bits + 0x7FFF + (bits >> 16 & 1) >> 16 << 16).to(tl.float32, bitcast=True)
    return x.to(dtype)
