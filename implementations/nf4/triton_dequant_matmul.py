"""NF4 in Triton kernels: the product reads two codes a byte and turns them into weights tile by tile, in registers.

The product and its gradient never see a whole weight matrix; `dequantized` is written beside them because the contract asks for
it. With double quantization a tile reads the magnitudes' bytes as well. Only the mean of the magnitudes is torch's.
"""

from functools import cache
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from harness import Unsupported

requires = ("triton",)
devices = ("cpu", "cuda")
gradients = True
compiles = {"width_1024": {"n": 256, "d": 1024, "e": 1024}, "width_1024_double": {"n": 256, "d": 1024, "e": 1024, "double": True}}
deterministic = True
grows = {"time": "N", "memory": "N"}

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)

# bitsandbytes' table, to the last bit.
NORMAL_FLOAT = """
-1.0 -0.6961928009986877 -0.5250730514526367 -0.39491748809814453 -0.28444138169288635 -0.18477343022823334
-0.09105003625154495 0.0 0.07958029955625534 0.16093020141124725 0.24611230194568634 0.33791524171829224
0.44070982933044434 0.5626170039176941 0.7229568362236023 1.0
"""


def prepare(case):
    if case.block % 2:
        raise Unsupported("packs two codes of a block into a byte: only blocks of even length")

    @cache
    def tables(device: torch.device) -> list[Tensor]:
        """The 16 values and the 256, each with the places halfway between."""
        values = torch.tensor([float(value) for value in NORMAL_FLOAT.split()], dtype=torch.float64)
        return [table.float().to(device) for v in (values, dynamic_map()) for table in (v, (v[1:] + v[:-1]) / 2)]

    def run(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        packed = quantized(w, case.block, case.double, *tables(w.device))
        code, dequantized = (torch.empty(w.shape, dtype=x.dtype, device=w.device) for _ in range(2))
        grid = (triton.cdiv(w.shape[0], 32), triton.cdiv(w.shape[1], 64))
        unpack[grid](*packed.kept, code, dequantized, *w.shape, **packed.facts, ROWS=32, COLUMNS=64, num_warps=4)
        return Product.apply(x, packed), code, dequantized

    return run


def dynamic_map() -> Tensor:
    """The 256 values of a byte: sign, place of the first set bit as a power of ten, and the rest as a fraction of [0.1, 1]."""
    fractions = (torch.linspace(0.1, 1, 2**i + 1, dtype=torch.float64) for i in range(7))
    positive = torch.cat([10.0 ** (i - 6) * (f[1:] + f[:-1]) / 2 for i, f in enumerate(fractions)])
    return torch.cat((positive, -positive, torch.tensor([0.0, 1.0]))).sort().values


class Packed(NamedTuple):
    """Weights [e d] as they are kept: what kernels are given (codes, values, magnitudes, ...), and what they are compiled for."""

    kept: tuple[Tensor, ...]
    shape: torch.Size
    facts: dict[str, int]


def quantized(
    w: Tensor, block: int, double: bool, values: Tensor, halfway: Tensor, second: Tensor, second_halfway: Tensor
) -> Packed:
    blocks, d = triton.cdiv(w.numel(), block), w.shape[1]
    codes = torch.empty(triton.cdiv(w.numel(), 2), dtype=torch.uint8, device=w.device)
    magnitude = torch.empty(blocks, dtype=torch.float32, device=w.device)
    tile = {"BLOCKS": 16, "HALF": triton.next_power_of_2(block) // 2}
    pack[(triton.cdiv(blocks, 16),)](w, halfway, codes, magnitude, *w.shape, *w.stride(), BLOCK=block, **tile, num_warps=4)
    # Whether a byte holds neighbours of one row, and whether 64 neighbours, from a multiple of 64, lie in one block.
    facts = {"BLOCK": block, "DOUBLE": double, "PAIRED": d % 2 == 0, "ALIGNED": d % block == 0 and block % 64 == 0}
    if not double:
        # Nothing reads the last three.
        return Packed((codes, values, magnitude, magnitude, values, values), w.shape, facts)
    byte = torch.empty(blocks, dtype=torch.uint8, device=w.device)
    deviation = torch.empty(triton.cdiv(blocks, 256), dtype=torch.float32, device=w.device)
    mean = magnitude.mean()
    pack_magnitudes[(len(deviation),)](magnitude, mean, second_halfway, byte, deviation, blocks, num_warps=4)
    return Packed((codes, values, byte, deviation, second, mean), w.shape, facts)


class Product(torch.autograd.Function):
    """x [n d] times the transpose of the packed weights [e d]."""

    @staticmethod
    def forward(ctx, x, packed):
        ctx.packed = packed
        return product(x, packed, backward=False)

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        return product(d_out, ctx.packed, backward=True), None


def product(x: Tensor, packed: Packed, backward: bool) -> Tensor:
    """x [n d] times the transpose of the weights, or, backward, x [n e] times the weights."""
    e, d = packed.shape
    inner, outer = (e, d) if backward else (d, e)
    out = torch.empty(len(x), outer, dtype=x.dtype, device=x.device)
    shape = launch(len(x), x.dtype, packed.facts["ALIGNED"])
    grid = (triton.cdiv(len(x), shape["ROWS"]), triton.cdiv(outer, shape["OUTER"]))
    multiply[grid](*(x, *packed.kept, out, len(x), inner, outer, e, d, *x.stride()), **packed.facts, **shape, BACKWARD=backward)
    return out


def launch(n: int, dtype: torch.dtype, aligned: bool) -> dict[str, int]:
    """Tiles that leave room in the registers: a product of float32 keeps whole operands there, scattered magnitudes addresses."""
    if dtype == torch.float32:
        return {"ROWS": 16, "INNER": 16, "OUTER": 64, "num_warps": 4, "num_stages": 2}
    rows = 16 if n <= 16 else 64
    if aligned:
        return {"ROWS": rows, "INNER": 64, "OUTER": 64, "num_warps": 4, "num_stages": 3}
    return {"ROWS": rows, "INNER": 32, "OUTER": 64, "num_warps": 4, "num_stages": 2}


@triton.jit
def pack(w, halfway, codes, magnitude, e, d, w_e, w_d, BLOCK: tl.constexpr, BLOCKS: tl.constexpr, HALF: tl.constexpr):
    """Blocks of weights, row after row, to bytes of two codes, the first in the high half, and magnitudes."""
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)[:, None]
    place = tl.arange(0, 2 * HALF)[None, :]
    at = block * BLOCK + place
    wide = tl.load(w + at // d * w_e + at % d * w_d, (at < e * d) & (place < BLOCK), 0.0)
    largest = tl.max(tl.abs(wide), 1, keep_dims=True)
    tl.store(magnitude + block, largest, block * BLOCK < e * d)
    code = search(tl.div_rn(wide, tl.where(largest > 0, largest, 1.0)), halfway, 4)
    high, low = tl.split(tl.reshape(code, [BLOCKS, HALF, 2]))
    pair = tl.arange(0, HALF)[None, :]
    inside = (2 * pair < BLOCK) & (block * BLOCK + 2 * pair < e * d)
    tl.store(codes + (block * BLOCK) // 2 + pair, (high << 4 | low).to(tl.uint8), inside)


@triton.jit
def pack_magnitudes(magnitude, mean, halfway, byte, deviation, blocks):
    """256 magnitudes, less the mean of all, to bytes and their largest deviation."""
    at = tl.program_id(0) * 256 + tl.arange(0, 256)
    away = tl.where(at < blocks, tl.load(magnitude + at, at < blocks, 0.0) - tl.load(mean), 0.0)
    largest = tl.max(tl.abs(away), 0)
    tl.store(deviation + tl.program_id(0), largest)
    code = search(tl.div_rn(away, tl.where(largest > 0, largest, 1.0)), halfway, 8)
    tl.store(byte + at, code.to(tl.uint8), at < blocks)


@triton.jit
def search(x, halfway, BITS: tl.constexpr):
    """How many of 2^BITS - 1 rising places lie below each x, by bisection."""
    count = tl.zeros(x.shape, tl.int32)
    for bit in tl.static_range(BITS):
        step = 1 << (BITS - 1 - bit)
        count += tl.where(x > tl.load(halfway + count + step - 1), step, 0)
    return count


@triton.jit
def unpack(
    codes,
    values,
    magnitude,
    deviation,
    second,
    mean,
    code,
    dequantized,
    e,
    d,
    BLOCK: tl.constexpr,
    DOUBLE: tl.constexpr,
    PAIRED: tl.constexpr,
    ALIGNED: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """All codes, and all weights as they come back."""
    row, start = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.program_id(1) * COLUMNS
    column = start + tl.arange(0, COLUMNS)[None, :]
    here = (row < e)[:, None] & (column < d)
    at = row.to(tl.int64)[:, None] * d + column
    found = read_codes(codes, row, start, e, d, PAIRED, COLUMNS)
    tl.store(code + at, nearest(found.to(tl.float32), code.dtype.element_ty), here)
    factor = read_magnitudes(magnitude, deviation, second, mean, row, start, e, d, BLOCK, DOUBLE, ALIGNED, COLUMNS)
    tl.store(dequantized + at, nearest(tl.load(values + found) * factor, dequantized.dtype.element_ty), here)


@triton.jit
def read_codes(codes, row, start, e, d, PAIRED: tl.constexpr, COLUMNS: tl.constexpr):
    """A tile [rows, COLUMNS] of codes from column `start`, 7 (the value 0) beyond the ends."""
    row = row.to(tl.int64)[:, None]
    if PAIRED:
        pair = tl.arange(0, COLUMNS // 2)[None, :]
        byte = tl.load(codes + (row * d + start) // 2 + pair, (row < e) & (start + 2 * pair < d), 0x77).to(tl.int32)
        code = tl.reshape(tl.join(byte >> 4, byte & 15), [row.shape[0], COLUMNS])
    else:
        column = start + tl.arange(0, COLUMNS)[None, :]
        at = row * d + column
        byte = tl.load(codes + at // 2, (row < e) & (column < d), 0x77).to(tl.int32)
        code = tl.where(at % 2 == 0, byte >> 4, byte & 15)
    return code


@triton.jit
def read_magnitudes(
    magnitude,
    deviation,
    second,
    mean,
    row,
    start,
    e,
    d,
    BLOCK: tl.constexpr,
    DOUBLE: tl.constexpr,
    ALIGNED: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """What to multiply a tile of values by: [rows, COLUMNS], or [rows, 1] where a row of the tile lies in one block."""
    row = row.to(tl.int64)[:, None]
    if ALIGNED:
        here = row < e
        block = (row * d + start) // BLOCK
    else:
        column = start + tl.arange(0, COLUMNS)[None, :]
        here = (row < e) & (column < d)
        block = (row * d + column) // BLOCK
    if DOUBLE:
        byte = tl.load(magnitude + block, here, 0).to(tl.int32)
        factor = tl.load(second + byte) * tl.load(deviation + block // 256, here, 0.0) + tl.load(mean)
    else:
        factor = tl.load(magnitude + block, here, 0.0)
    return factor


@triton.jit
def multiply(
    x,
    codes,
    values,
    magnitude,
    deviation,
    second,
    mean,
    out,
    n,
    inner,
    outer,
    e,
    d,
    x_n,
    x_inner,
    BLOCK: tl.constexpr,
    DOUBLE: tl.constexpr,
    PAIRED: tl.constexpr,
    ALIGNED: tl.constexpr,
    BACKWARD: tl.constexpr,
    ROWS: tl.constexpr,
    INNER: tl.constexpr,
    OUTER: tl.constexpr,
):
    """A tile of x [n inner] times weights, which lie as [outer inner], or backward as [inner outer]."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    first = tl.program_id(1) * OUTER
    total = tl.zeros([ROWS, OUTER], tl.float32)
    x += row.to(tl.int64)[:, None] * x_n
    for start in range(0, inner, INNER):
        place = start + tl.arange(0, INNER)
        left = tl.load(x + place[None, :] * x_inner, (row < n)[:, None] & (place < inner)[None, :], 0.0)
        if BACKWARD:
            code = read_codes(codes, place, first, e, d, PAIRED, OUTER)
            factor = read_magnitudes(magnitude, deviation, second, mean, place, first, e, d, BLOCK, DOUBLE, ALIGNED, OUTER)
        else:
            of = first + tl.arange(0, OUTER)
            code = read_codes(codes, of, start, e, d, PAIRED, INNER)
            factor = read_magnitudes(magnitude, deviation, second, mean, of, start, e, d, BLOCK, DOUBLE, ALIGNED, INNER)
        weight = nearest(tl.load(values + code) * factor, x.dtype.element_ty)
        right = weight if BACKWARD else tl.trans(weight)
        if INTERPRETED:
            # The interpreter multiplies the bits of bfloat16 as whole numbers.
            left, right = left.to(tl.float32), right.to(tl.float32)
        total = tl.dot(left, right, total, input_precision="ieee")
    column = first + tl.arange(0, OUTER)
    here = (row < n)[:, None] & (column < outer)[None, :]
    tl.store(out + row.to(tl.int64)[:, None] * outer + column[None, :], nearest(total, out.dtype.element_ty), here)


@triton.jit
def nearest(x, dtype: tl.constexpr):
    """float32 rounded to nearest in another dtype; Triton's interpreter would cut bits off for bfloat16."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        x = (bits + 0x7FFF + (bits >> 16 & 1) >> 16 << 16).to(tl.float32, bitcast=True)
    return x.to(dtype)
