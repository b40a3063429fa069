"""Root mean square normalisation in Triton: rows in tiles, squares summed in float32.

The first tile of a row stays in registers, further ones are read again. The gradient of the gain is summed twice, rows into
one partial sum for each program, and partial sums into one, always in the same order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

requires = ("triton",)
devices = ("cpu", "cuda")
gradients = True
compiles = {"width_4096": {"n": 512, "d": 4096}}
deterministic = True
grows = {"time": "N", "memory": "N"}
variants = {"small_tiles": {"tile": 128, "rows": 2, "parts": 3}, "large_tiles": {}}

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


def prepare(case, tile: int = 4096, rows: int = 32, parts: int = 256):
    """Rows in tiles of this width at most; sums over rows in tiles of so many rows, by so many programs at most."""

    def run(x: Tensor, weight: Tensor) -> Tensor:
        return RMSNorm.apply(x, weight, case.eps, tile, rows, parts)

    return run


class RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, eps, tile, rows, parts):
        b, n, d = x.shape
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        inverse = torch.empty(b * n, dtype=torch.float32, device=x.device)
        shape = launch(d, tile)
        grid = (triton.cdiv(b * n, shape["ROWS"]),)
        normalise[grid](x, weight, out, inverse, b * n, n, d, eps, *x.stride(), weight.stride(0), **shape)
        ctx.save_for_backward(x, weight, inverse)
        ctx.tile, ctx.rows, ctx.parts = tile, rows, parts
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        x, weight, inverse = ctx.saved_tensors
        b, n, d = x.shape
        d_x = d_weight = None
        if ctx.needs_input_grad[0]:
            d_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
            shape = launch(d, ctx.tile)
            grid = (triton.cdiv(b * n, shape["ROWS"]),)
            pull_back[grid](x, weight, d_out, d_x, inverse, b * n, n, d, *x.stride(), weight.stride(0), *d_out.stride(), **shape)
        if ctx.needs_input_grad[1]:
            d_weight = torch.empty(d, dtype=weight.dtype, device=x.device)
            parts = min(triton.cdiv(b * n, ctx.rows), ctx.parts)
            partial = torch.empty(parts, d, dtype=torch.float32, device=x.device)
            each, tiles = triton.cdiv(triton.cdiv(b * n, ctx.rows), parts) * ctx.rows, triton.cdiv(d, 64)
            size = {"ROWS": ctx.rows, "COLUMNS": 64, "num_warps": 4}
            sum_rows[(tiles, parts)](x, d_out, inverse, partial, b * n, n, d, each, *x.stride(), *d_out.stride(), **size)
            sum_parts[(tiles,)](partial, d_weight, parts, d, **size)
        return d_x, d_weight, None, None, None, None


def launch(d: int, tile: int) -> dict[str, int]:
    """A tile no wider than the row, and rows enough to occupy the threads."""
    tile = min(tile, triton.next_power_of_2(d))
    rows = max(1, 1024 // tile)
    return {"ROWS": rows, "TILE": tile, "num_warps": 4 if rows * tile <= 2048 else 8}


@triton.jit
def normalise(x, weight, out, inverse, rows, n, d, eps, x_b, x_n, x_d, weight_d, ROWS: tl.constexpr, TILE: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, TILE)[None, :]
    is_row = row < rows
    x += row // n * x_b + row % n * x_n
    out += row * d
    first = tl.load(x + column * x_d, is_row & (column < d), 0.0).to(tl.float32)
    squares = tl.sum(first * first, 1, keep_dims=True)
    for start in range(TILE, d, TILE):
        wide = tl.load(x + (start + column) * x_d, is_row & (start + column < d), 0.0).to(tl.float32)
        squares += tl.sum(wide * wide, 1, keep_dims=True)
    scale = 1 / tl.sqrt_rn(squares / d + eps)
    tl.store(inverse + row, scale, is_row)
    write(first * scale, weight, out, column, d, weight_d, is_row)
    for start in range(TILE, d, TILE):
        wide = tl.load(x + (start + column) * x_d, is_row & (start + column < d), 0.0).to(tl.float32)
        write(wide * scale, weight, out, start + column, d, weight_d, is_row)


@triton.jit
def write(unit, weight, out, column, d, weight_d, is_row):
    gain = tl.load(weight + column * weight_d, column < d, 0.0).to(tl.float32)
    tl.store(out + column, nearest(unit * gain, out.dtype.element_ty), is_row & (column < d))


@triton.jit
def pull_back(
    x, weight, d_out, d_x, inverse, rows, n, d, x_b, x_n, x_d, weight_d, g_b, g_n, g_d, ROWS: tl.constexpr, TILE: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, TILE)[None, :]
    is_row = row < rows
    x += row // n * x_b + row % n * x_n
    d_out += row // n * g_b + row % n * g_n
    d_x += row * d
    scale = tl.load(inverse + row, is_row, 0.0)
    unit, pull = unit_and_pull(x, weight, d_out, scale, column, d, x_d, weight_d, g_d, is_row)
    along = tl.sum(pull * unit, 1, keep_dims=True)
    for start in range(TILE, d, TILE):
        other, more = unit_and_pull(x, weight, d_out, scale, start + column, d, x_d, weight_d, g_d, is_row)
        along += tl.sum(more * other, 1, keep_dims=True)
    along = along / d
    tl.store(d_x + column, nearest(scale * (pull - unit * along), d_x.dtype.element_ty), is_row & (column < d))
    for start in range(TILE, d, TILE):
        other, more = unit_and_pull(x, weight, d_out, scale, start + column, d, x_d, weight_d, g_d, is_row)
        found = scale * (more - other * along)
        tl.store(d_x + start + column, nearest(found, d_x.dtype.element_ty), is_row & (start + column < d))


@triton.jit
def unit_and_pull(x, weight, d_out, scale, column, d, x_d, weight_d, g_d, is_row):
    """A tile of the normalised row, and of the cotangent times the gain; zeros beyond the end."""
    here = is_row & (column < d)
    gain = tl.load(weight + column * weight_d, column < d, 0.0).to(tl.float32)
    unit = tl.load(x + column * x_d, here, 0.0).to(tl.float32) * scale
    return unit, tl.load(d_out + column * g_d, here, 0.0).to(tl.float32) * gain


@triton.jit
def sum_rows(
    x, d_out, inverse, partial, rows, n, d, each, x_b, x_n, x_d, g_b, g_n, g_d, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """Sums over rows part * each ... (part + 1) * each - 1 of what reaches the gain: partial[part]."""
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    part = tl.program_id(1)
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, each, ROWS):
        row = part.to(tl.int64) * each + start + tl.arange(0, ROWS)[:, None]
        here = (row < rows) & (column < d)
        wide = tl.load(x + row // n * x_b + row % n * x_n + column * x_d, here, 0.0).to(tl.float32)
        pull = tl.load(d_out + row // n * g_b + row % n * g_n + column * g_d, here, 0.0).to(tl.float32)
        total += pull * wide * tl.load(inverse + row, row < rows, 0.0)
    tl.store(partial + part * d + column, tl.sum(total, 0, keep_dims=True), column < d)


@triton.jit
def sum_parts(partial, d_weight, parts, d, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, parts, ROWS):
        part = start + tl.arange(0, ROWS)[:, None]
        total += tl.load(partial + part * d + column, (part < parts) & (column < d), 0.0)
    tl.store(d_weight + column, nearest(tl.sum(total, 0, keep_dims=True), d_weight.dtype.element_ty), column < d)


@triton.jit
def nearest(x, dtype: tl.constexpr):
    """float32 rounded to nearest in another dtype; Triton's interpreter would cut bits off for bfloat16."""
    if INTERPRETED and dtype == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True)
        x = (bits + 0x7FFF + (bits >> 16 & 1) >> 16 << 16).to(tl.float32, bitcast=True)
    return x.to(dtype)
