"""Triton kernels of retention in chunks: two, which also make its gradients; at decay 1 they make linear attention.

`carry` hands a sum of outer products from chunk to chunk, `mix` makes the rows of all chunks at once. For the sum
state_n = gamma state_{n-1} + k_n v_n^T and out_n = q_n state_n, with S before a chunk, S' after it, and d S' from behind:

    state     S'    = gamma^L S + sum_s gamma^(L-1-s) k_s v_s^T            carry(k, v)
    out       out_r = gamma^(r+1) q_r S + sum_{s<=r} gamma^(r-s) (q_r k_s) v_s        mix(q, k, v, S)
    d state   d S   = gamma^L d S' + sum_r gamma^(r+1) q_r d_out_r^T       carry(q, d_out), backwards
    d q       as out, of d_out, v, k, S^T                                  mix(d_out, v, k, S^T)
    d k       as out, of v, d_out, q, d S'^T, backwards                    mix(v, d_out, q, d S'^T)
    d v       as out, of k, q, d_out, d S', backwards                      mix(k, q, d_out, d S')

No exponent is negative. Sums and states are float32. Nothing is added atomically.

Linear attention is the same with features phi = elu + 1 of q and k, at decay 1, and with a column of ones beside v, whose
outputs are the denominators. That column is nowhere in memory: its states are `sums`, its cotangents `side` = -out . d_out,
and what is divided by the denominators is multiplied by their inverses where it is read.
"""

# mypy: disable-error-code="import-untyped, import-not-found"
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

SMALLEST = tl.constexpr(1e-30)


def carried(
    x: Tensor,
    y: Tensor,
    start: Tensor,
    chunk: int,
    log_decay: Tensor | None = None,
    start_sum: Tensor | None = None,
    side: Tensor | None = None,
    inverse: Tensor | None = None,
    backwards: bool = False,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """States [b h c d e] before each chunk (behind it, if backwards) in float32, and the last one in the dtype of `start`.

    With a `start_sum` [b h d], the same for the sums of the features of x [b h n d], weighed by `side` if backwards."""
    (b, h, n, d), e = x.shape, y.shape[-1]
    chunks = triton.cdiv(n, chunk)
    states = torch.empty(b, h, chunks, d, e, dtype=torch.float32, device=x.device)
    end = torch.empty(b, h, d, e, dtype=start.dtype, device=x.device)
    sums = end_sum = None
    if start_sum is not None:
        sums = torch.empty(b, h, chunks, d, dtype=torch.float32, device=x.device)
        end_sum = torch.empty(b, h, d, dtype=start_sum.dtype, device=x.device)
    shape = tiles_of_carry(x.element_size(), d, e)
    grid = (b * h, triton.cdiv(d, shape["INNER"]), triton.cdiv(e, shape["WIDTH"]))
    strides = x.stride(), y.stride(), start.stride(), None if start_sum is None else start_sum.stride()
    carry[grid](
        x, y, start, states, end, log_decay, start_sum, sums, end_sum, side, inverse, *strides,
        h, n, d, e, BACKWARDS=backwards, CHUNK=chunk, INTERPRETED=triton.knobs.runtime.interpret, **shape,
    )  # fmt: skip
    return states, end, sums, end_sum


def mixed(
    rows: Tensor,
    columns: Tensor,
    values: Tensor,
    states: Tensor,
    chunk: int,
    kind: str,
    log_decay: Tensor | None = None,
    sums: Tensor | None = None,
    side: Tensor | None = None,
    inverse: Tensor | None = None,
    own: Tensor | None = None,
) -> Tensor:
    """Results [b h n width] of a kind: "out", "d_q", "d_k" or "d_v"; see above what goes in.

    With `inverse` [b h n] for linear attention, which "out" writes; `own` is the q or k whose gradient is made."""
    (b, h, n, inner), width = rows.shape, values.shape[-1]
    out = torch.empty(b, h, n, width, dtype=values.dtype, device=rows.device)
    shape = tiles_of_mix(rows.element_size(), chunk, inner, width)
    grid = (b * h * triton.cdiv(n, chunk), triton.cdiv(width, shape["WIDTH"]))
    strides = rows.stride(), columns.stride(), values.stride(), states.stride(), None if own is None else own.stride()
    mix[grid](
        rows, columns, values, states, out, log_decay, sums, side, inverse, own, *strides,
        h, n, inner, width, KIND=kind, CHUNK=chunk, INTERPRETED=triton.knobs.runtime.interpret, **shape,
    )  # fmt: skip
    return out


def fitting(chunk: int, n: int) -> int:
    """The chunk size, or less where the sequence is shorter."""
    return min(chunk, max(16, triton.next_power_of_2(n)))


def tile(width: int, most: int) -> int:
    return max(16, min(most, triton.next_power_of_2(width)))


def tiles_of_carry(bytes_each: int, d: int, e: int) -> dict[str, Any]:
    """In float32 there is no matrix unit, and operands take registers too."""
    most, warps = (64, 4) if bytes_each == 2 else (32, 8)
    return {"INNER": tile(d, most), "WIDTH": tile(e, most), "num_warps": warps, "num_stages": 2}


def tiles_of_mix(bytes_each: int, chunk: int, inner: int, width: int) -> dict[str, Any]:
    inner, width = (tile(inner, 32), tile(width, 64)) if bytes_each == 2 else (16, tile(width, 32))
    return {"INNER": inner, "WIDTH": width, "num_warps": 8 if chunk * bytes_each >= 128 else 4, "num_stages": 2}


@triton.jit
def carry(
    x, y, start, states, end, log_decay, start_sum, sums, end_sum, side, inverse,
    x_strides, y_strides, start_strides, start_sum_strides, h, n, d, e,
    BACKWARDS: tl.constexpr, CHUNK: tl.constexpr, INNER: tl.constexpr, WIDTH: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """A tile of the state of one head, from chunk to chunk: state' = gamma^length state + (weight x)^T y."""
    head = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1) * INNER + tl.arange(0, INNER)
    w = tl.program_id(2) * WIDTH + tl.arange(0, WIDTH)
    step = tl.arange(0, CHUNK)
    inside = (i < d)[:, None] & (w < e)[None, :]
    x += head // h * x_strides[0] + head % h * x_strides[1]
    y += head // h * y_strides[0] + head % h * y_strides[1]
    start += head // h * start_strides[0] + head % h * start_strides[1]
    at = i[:, None] * start_strides[2] + w[None, :] * start_strides[3]
    state = tl.load(start + at, inside, 0.0).to(tl.float32)
    if sums is not None:
        owned = tl.where(tl.program_id(2) == 0, d, 0)  # one of the programs that share a row of tiles stores its sums
        start_sum += head // h * start_sum_strides[0] + head % h * start_sum_strides[1]
        total = tl.load(start_sum + i * start_sum_strides[2], i < d, 0.0).to(tl.float32)
    if log_decay is not None:
        decay = tl.load(log_decay + head % h)

    chunks = tl.cdiv(n, CHUNK)
    for turn in range(chunks):
        chunk = tl.cast(chunks - 1 - turn if BACKWARDS else turn, tl.int64)
        place = head * chunks + chunk
        tl.store(states + place * d * e + i[:, None] * e + w[None, :], state, inside)
        first = chunk * CHUNK
        length = tl.minimum(n - first, CHUNK).to(tl.int32)
        x_part = read(x + first * x_strides[2], i, step, d, length, x_strides[3], x_strides[2], sums is not None)
        y_part = read(y + first * y_strides[2], step, w, length, e, y_strides[2], y_strides[3], False)
        if sums is not None:
            tl.store(sums + place * d + i, total, i < owned)
            if BACKWARDS:
                token = head * n + first + step
                x_part *= tl.load(inverse + token, step < length, 0.0)[None, :]
                total += tl.sum(x_part * tl.load(side + token, step < length, 0.0)[None, :], 1)
            else:
                total += tl.sum(x_part, 1)
        if log_decay is not None:
            power = step + 1 if BACKWARDS else tl.maximum(length - 1 - step, 0)
            x_part = x_part.to(tl.float32) * tl.exp2(power * decay)[None, :]
            state *= tl.exp2(length * decay)
        state += product(x_part, y_part, 0, y.dtype.element_ty, INTERPRETED)

    at = head * d * e + i[:, None] * e + w[None, :]
    tl.store(end + at, rounded(state, end.dtype.element_ty, INTERPRETED), inside)
    if sums is not None:
        tl.store(end_sum + head * d + i, rounded(total, end_sum.dtype.element_ty, INTERPRETED), i < owned)


@triton.jit
def mix(
    rows, columns, values, states, out, log_decay, sums, side, inverse, own,
    row_strides, column_strides, value_strides, state_strides, own_strides, h, n, inner, width,
    KIND: tl.constexpr, CHUNK: tl.constexpr, INNER: tl.constexpr, WIDTH: tl.constexpr, INTERPRETED: tl.constexpr,
):  # fmt: skip
    """A tile of the results of one chunk: edge * (rows @ state) + (rows @ columns^T * weight) @ values."""
    BACKWARDS: tl.constexpr = KIND == "d_k" or KIND == "d_v"
    LINEAR: tl.constexpr = inverse is not None
    DTYPE: tl.constexpr = values.dtype.element_ty
    chunks = tl.cdiv(n, CHUNK)
    head = (tl.program_id(0) // chunks).to(tl.int64)
    chunk = (tl.program_id(0) % chunks).to(tl.int64)
    first = chunk * CHUNK
    length = tl.minimum(n - first, CHUNK).to(tl.int32)
    step = tl.arange(0, CHUNK)
    w = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    rows += head // h * row_strides[0] + head % h * row_strides[1] + first * row_strides[2]
    columns += head // h * column_strides[0] + head % h * column_strides[1] + first * column_strides[2]
    values += head // h * value_strides[0] + head % h * value_strides[1] + first * value_strides[2]
    states += head // h * state_strides[0] + head % h * state_strides[1] + chunk * state_strides[2]
    token = head * n + first + step

    score = tl.zeros([CHUNK, CHUNK], tl.float32)
    across = tl.zeros([CHUNK, WIDTH], tl.float32)
    total = tl.zeros([CHUNK], tl.float32)
    for begin in range(0, inner, INNER):
        i = begin + tl.arange(0, INNER)
        MAPPED: tl.constexpr = LINEAR and (KIND == "out" or KIND == "d_v")
        row = read(rows, step, i, length, inner, row_strides[2], row_strides[3], MAPPED)
        column = read(columns, i, step, inner, length, column_strides[3], column_strides[2], MAPPED)
        state = read(states, i, w, inner, width, state_strides[3], state_strides[4], False)
        if LINEAR and KIND == "out":
            total += tl.sum(row * tl.load(sums + (head * chunks + chunk) * inner + i, i < inner, 0.0)[None, :], 1)
        score += plain_product(row, column, DTYPE, INTERPRETED)
        across += product(row, state, 1, DTYPE, INTERPRETED)

    if LINEAR and KIND != "out":
        scale = tl.load(inverse + token, step < length, 0.0)
        if KIND != "d_v":
            beside = tl.load(side + token, step < length, 0.0)
            state_sum = tl.load(sums + (head * chunks + chunk) * width + w, w < width, 0.0)
        if KIND == "d_q":
            score += beside[:, None]
            across += beside[:, None] * state_sum[None, :]
        if KIND == "d_k":
            score += beside[None, :]
            across += state_sum[None, :]
        if BACKWARDS:
            score *= scale[None, :]
    distance = step[None, :] - step[:, None] if BACKWARDS else step[:, None] - step[None, :]
    if log_decay is not None:
        decay = tl.load(log_decay + head % h)
        score *= tl.exp2(tl.maximum(distance, 0) * decay)
        across *= tl.exp2((tl.maximum(length - 1 - step, 0) if BACKWARDS else step + 1) * decay)[:, None]
    score = tl.where(distance >= 0, score, 0.0)

    value = read(values, step, w, length, width, value_strides[2], value_strides[3], LINEAR and (KIND == "d_q" or KIND == "d_k"))
    result = across + product(score, value, 0, DTYPE, INTERPRETED)
    if LINEAR and KIND == "out":
        scale = 1 / tl.where(step < length, total + tl.sum(score, 1), 1.0)
        tl.store(inverse + token, scale, step < tl.where(tl.program_id(1) == 0, length, 0))
    if LINEAR and (KIND == "out" or KIND == "d_q"):
        result *= scale[:, None]
    if LINEAR and (KIND == "d_q" or KIND == "d_k"):
        own += head // h * own_strides[0] + head % h * own_strides[1] + first * own_strides[2]
        # Below zero elu + 1 is its own derivative, above it is 1.
        result *= tl.minimum(read(own, step, w, length, width, own_strides[2], own_strides[3], True), 1.0)
    here = (step < length)[:, None] & (w < width)[None, :]
    tl.store(out + token[:, None] * width + w[None, :], rounded(result, DTYPE, INTERPRETED), here)


@triton.jit
def read(x, i, j, rows, columns, row_stride, column_stride, MAPPED: tl.constexpr):
    """A tile, zero outside; MAPPED: of elu + 1 in float32."""
    inside = (i < rows)[:, None] & (j < columns)[None, :]
    found = tl.load(x + i[:, None] * row_stride + j[None, :] * column_stride, inside, 0.0)
    if MAPPED:
        found = found.to(tl.float32)
        found = tl.where(inside, tl.where(found > 0, found + 1, tl.exp(tl.where(found > 0, 0.0, found))), 0.0)
    return found


@triton.jit
def product(a, b, COMPUTED: tl.constexpr, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr):
    """a @ b in DTYPE, summed in float32. Operand COMPUTED (0 or 1) is no input: float16 might not hold its magnitudes, so
    there it is divided by the largest of each row of a, or column of b."""
    if tl.float16 == DTYPE:
        if COMPUTED == 0:
            top = tl.maximum(tl.max(tl.abs(a).to(tl.float32), 1, keep_dims=True), SMALLEST)
            found = plain_product(a / top, b, DTYPE, INTERPRETED) * top
        else:
            top = tl.maximum(tl.max(tl.abs(b).to(tl.float32), 0, keep_dims=True), SMALLEST)
            found = plain_product(a, b / top, DTYPE, INTERPRETED) * top
    else:
        found = plain_product(a, b, DTYPE, INTERPRETED)
    return found


@triton.jit
def plain_product(a, b, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr):
    a, b = rounded(a, DTYPE, INTERPRETED), rounded(b, DTYPE, INTERPRETED)
    if INTERPRETED:
        # The interpreter multiplies the bits of bfloat16 as if they were integers.
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision="ieee")


@triton.jit
def rounded(x, DTYPE: tl.constexpr, INTERPRETED: tl.constexpr):
    """To nearest: the interpreter cuts off the bits that bfloat16 lacks, so there they are rounded away before."""
    if INTERPRETED and tl.bfloat16 == DTYPE and x.dtype == tl.float32:
        bits = x.to(tl.int32, bitcast=True)
        x = ((bits + 0x7FFF + ((bits >> 16) & 1)) & -65536).to(tl.float32, bitcast=True)
    return x.to(DTYPE)
