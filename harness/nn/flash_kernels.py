"""FlashAttention-2 (Dao 2023, arXiv:2307.08691) in Triton: an online softmax over tiles of keys, recomputed in backward.

Weights are 2 to the power of scores times log2(e). Of the forward pass only `out` and `lse` are kept, the logarithm (to base 2)
of each query's sum of weights; it is infinite where no key is seen, so that the recomputed weights 2^(score - lse) are 0.

A tile of queries visits the keys that any of its queries sees: some sinks, and one range of keys. Within that range lie the
tiles that each of its queries sees whole; they are visited first, without a mask. A tile of keys visits queries likewise.
"""

# mypy: disable-error-code="import-untyped, import-not-found, misc, call-arg"
import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

INTERPRETED = triton.knobs.runtime.interpret
# The interpreter multiplies bfloat16 numbers wrongly, so there the operands of a product are widened, after their rounding.
WIDEN = tl.constexpr(INTERPRETED)
# The interpreter checks sums and products of narrower numbers for overflow, which takes it four times as long.
INDEX = tl.constexpr(tl.int64 if INTERPRETED else tl.int32)
LOG2E = tl.constexpr(1.4426950408889634)


def attention(
    sight: dict,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    slopes: Tensor | None = None,
    blocks: Tensor | None = None,
    starts: Tensor | None = None,
    ends: Tensor | None = None,
) -> Tensor:
    """q[b h n d], k[b g m d], v[b g m e] -> out[b h n e], differentiable in q, k, v and bias[h n m].

    `sight` says what is seen, see `seen`; slopes[h] are those of ALiBi; blocks[h p r] says which tiles of its BLOCK are seen;
    starts[m] and ends[m] are where the document of each key begins and ends.
    """
    given = (q, k, v, bias, slopes, blocks, starts, ends)
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, bias) if x is not None):
        return Flash.apply(sight, *given)
    return forward(sight, *given, keep=False)[0]


def seen(causal: bool = False, prefix: int = 0, window: int | None = None, sinks: int = 0, block: int = 0) -> dict:
    """Visibility in numbers: a key is seen where the past or the prefix has it, and the window or the sinks have it."""
    limited = window is not None
    return {"CAUSAL": causal, "WINDOW": limited, "prefix": prefix, "window": window or 0, "sinks": sinks, "BLOCK": block}


class Flash(torch.autograd.Function):
    """Attention with the gradients of q, k, v and bias."""

    @staticmethod
    def forward(ctx, sight, *given):
        out, lse = forward(sight, *given, keep=True)
        ctx.save_for_backward(out, lse, *given)
        ctx.sight = sight
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out):
        out, lse, *given = ctx.saved_tensors
        return None, *backward(ctx.sight, *given, out, lse, d_out, ctx.needs_input_grad[1:5]), None, None, None, None


def forward(sight, q, k, v, bias, slopes, blocks, starts, ends, keep: bool) -> tuple[Tensor, Tensor | None]:
    """Attention [b h n e], and if it is to be kept the lse [b h n]."""
    (b, h, n, _), e = q.shape, v.shape[3]
    out = q.new_empty(b, h, n, e)
    lse = q.new_empty(b, h, n, dtype=torch.float32) if keep else None
    added = bias is not None or slopes is not None
    tile = tiles("forward", q, v, added)
    forward_kernel[(triton.cdiv(n, tile["ROWS"]) * h * b,)](
        **shared(sight, q, k, v, bias, slopes, blocks, starts, ends), Out=out, Lse=lse, **tile
    )
    return out, lse


def backward(sight, q, k, v, bias, slopes, blocks, starts, ends, out, lse, d_out, wanted) -> tuple[Tensor | None, ...]:
    """The gradients of q, k, v and bias: those that are wanted (k and v together)."""
    (b, h, n, _), (g, m, e) = q.shape, v.shape[1:]
    for_q, for_k, for_v, for_bias = wanted
    delta = torch.empty_like(lse)
    rows = 64
    delta_kernel[(triton.cdiv(n, rows) * h * b,)](
        out, d_out, delta, out.stride(), d_out.stride(), h, n, e, E=padded(e), ROWS=rows, num_warps=4
    )
    common = shared(sight, q, k, v, bias, slopes, blocks, starts, ends)
    common |= {"D_Out": d_out, "Lse": lse, "Delta": delta, "d_out_step": d_out.stride()}
    added = bias is not None or slopes is not None
    d_q = d_k = d_v = d_bias = None
    if for_k or for_v:
        d_k, d_v = k.new_empty(k.shape), v.new_empty(v.shape)
        tile = tiles("keys", q, v, added)
        keys_kernel[(triton.cdiv(m, tile["KEYS"]) * g * b,)](**common, D_K=d_k, D_V=d_v, **tile)
    if for_q:
        d_q = q.new_empty(q.shape)
        tile = tiles("queries", q, v, added)
        queries_kernel[(triton.cdiv(n, tile["ROWS"]) * h * b,)](**common, D_Q=d_q, **tile)
    if for_bias:
        d_bias = bias.new_empty(bias.shape)
        tile = tiles("bias", q, v, added)
        bias_kernel[(triton.cdiv(n, tile["ROWS"]) * triton.cdiv(m, tile["KEYS"]) * h,)](**common, b=b, D_Bias=d_bias, **tile)
    return d_q, d_k, d_v, d_bias


def shared(sight, q, k, v, bias, slopes, blocks, starts, ends) -> dict:
    """What each kernel but that of delta is told."""
    (_, h, n, d), (_, g, m, e) = q.shape, v.shape
    tensors = {"Q": q, "K": k, "V": v, "Bias": bias, "Slopes": slopes, "Blocks": blocks, "Starts": starts, "Ends": ends}
    steps = {"q_step": q.stride(), "k_step": k.stride(), "v_step": v.stride(), "bias_step": (0, 0, 0)}
    if bias is not None:
        steps["bias_step"] = bias.stride()
    p, r = (0, 0) if blocks is None else blocks.shape[1:]
    sizes = {"h": h, "g": g, "n": n, "m": m, "p": p, "r": r, "d": d, "e": e, "D": padded(d), "E": padded(e)}
    return tensors | steps | sizes | sight | {"scale": d**-0.5}


def padded(width: int) -> int:
    """The width of a tile that holds `width` columns: a power of two, and 16 at least for the tensor cores."""
    return max(16, triton.next_power_of_2(width))


def tiles(kernel: str, q: Tensor, v: Tensor, added: bool) -> dict[str, int]:
    """Queries and keys in a tile, warps and stages of a kernel; `added` is whether it adds to the scores."""
    if INTERPRETED:
        return {"ROWS": 64, "KEYS": 64 if v.shape[2] < 4096 else 1024}
    width = padded(max(q.shape[3], v.shape[3]))
    rows, keys, warps, stages = TILES[kernel, q.element_size()][(width > 64) + (width > 128)]
    # Additions to scores take registers, and so do products before Hopper, which read no operand from shared memory.
    before_hopper = triton.runtime.driver.active.get_current_target().arch < 90
    if kernel == "keys":
        rows, keys = max(16, rows >> added), min(keys, max(32, keys >> before_hopper))
    else:
        keys = max(16, keys >> (added + before_hopper))
    return {"ROWS": rows, "KEYS": keys, "num_warps": warps, "num_stages": stages}


# Queries, keys, warps and stages for widths up to 64, 128 and 256, of 2 and of 4 bytes: as many as fit without spilling.
# Of queries of width 256 a Hopper multiprocessor holds one block: with one stage two would fit, and spill, with 4 or 8 warps.
TILES = {
    ("forward", 2): [(128, 64, 4, 3), (128, 64, 8, 2), (64, 32, 4, 2)],
    ("keys", 2): [(64, 128, 8, 2), (32, 128, 8, 2), (32, 32, 8, 2)],
    ("queries", 2): [(64, 64, 4, 2), (64, 64, 4, 2), (64, 32, 4, 2)],
    ("bias", 2): [(64, 128, 4, 1), (64, 128, 4, 1), (64, 64, 8, 1)],
    ("forward", 4): [(32, 32, 8, 1), (32, 32, 8, 1), (16, 32, 8, 1)],
    ("keys", 4): [(32, 32, 8, 1), (16, 16, 8, 1), (16, 16, 8, 1)],
    ("queries", 4): [(16, 32, 4, 1), (32, 16, 8, 1), (16, 16, 8, 1)],
    ("bias", 4): [(32, 64, 4, 1), (32, 64, 8, 1), (16, 32, 8, 1)],
}


@triton.jit
def forward_kernel(
    Q, K, V, Bias, Slopes, Blocks, Starts, Ends, q_step, k_step, v_step, bias_step, Out, Lse,
    h, g, n, m, p, r, prefix, window, sinks, scale,
    d: tl.constexpr, e: tl.constexpr, D: tl.constexpr, E: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    BLOCK: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """One tile of queries of one head."""
    row_tiles = (n + ROWS - 1) // ROWS
    tile, head, batch = program_of(row_tiles, h)
    first_row = (row_tiles - 1 - tile) * ROWS  # under a causal mask the last queries take longest
    row, key = tl.arange(0, ROWS).to(INDEX)[:, None], tl.arange(0, KEYS).to(INDEX)[None, :]
    key_head = head // (h // g)
    low, whole, whole_end, high, sunk, starts, ends = keys_of_rows(
        first_row, row, batch, n, m, prefix, window, sinks, Starts, Ends, ROWS, KEYS, CAUSAL, WINDOW
    )
    q = load_rows(Q, q_step, batch, head, first_row, n, d, ROWS, D, True)
    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.full([ROWS], 0.0, tl.float32)
    mixed = tl.full([ROWS, E], 0.0, tl.float32)
    inner = whole_end - whole
    for MASKED in tl.static_range(2):
        for i in range(sunk + high - low - inner if MASKED else inner):
            first_key = visit(i, low, whole, whole_end, sunk, MASKED) * KEYS
            shown, some = blocks_at(Blocks, head, p, r, n, m, first_row, first_key, row, key, BLOCK)
            if some:
                k = load_rows(K, k_step, batch, key_head, first_key, m, d, KEYS, D, MASKED)
                raw = tl.dot(q, tl.trans(k), input_precision="ieee")
                score, unit = scores(raw, scale, Bias, bias_step, Slopes, head, n, m, first_row, first_key, row, key)
                if MASKED:
                    seen = visible(first_row + row + m - n, first_key + key, prefix, window, sinks, CAUSAL, WINDOW)
                    seen &= first_key + key < m
                    if Starts is not None:
                        seen &= (first_key + key >= starts) & (first_key + key < ends)
                    score = tl.where(seen, score, float("-inf"))
                if Blocks is not None:
                    score = tl.where(shown, score, float("-inf"))
                higher = tl.maximum(top, tl.max(score, 1) * unit)
                base = higher
                if MASKED or Blocks is not None or Bias is not None:  # a tile may be hidden whole; a bias hides by -inf
                    base = tl.where(higher == float("-inf"), 0.0, higher)
                weight = tl.exp2(score * unit - base[:, None])
                kept = tl.exp2(top - base)
                v = load_rows(V, v_step, batch, key_head, first_key, m, e, KEYS, E, MASKED)
                total = total * kept + tl.sum(weight, 1)
                weight = rounded(weight, V.dtype.element_ty)
                mixed = tl.dot(weight.to(v.dtype), v, mixed * kept[:, None], input_precision="ieee")
                top = higher
    some_total = tl.where(total > 0, total, 1.0)
    store_rows(Out, batch * h + head, mixed / some_total[:, None], first_row, n, e, ROWS, E)
    if Lse is not None:
        lse = tl.where(total > 0, top + tl.log2(some_total), float("inf"))
        at = first_row + tl.arange(0, ROWS).to(INDEX)
        tl.store(Lse + tl.cast(batch * h + head, tl.int64) * n + at, lse, mask=at < n)


@triton.jit
def delta_kernel(Out, D_Out, Delta, out_step, d_out_step, h, n, e: tl.constexpr, E: tl.constexpr, ROWS: tl.constexpr):
    """The sums over the columns of out * d_out, [b h n]."""
    tile, head, batch = program_of((n + ROWS - 1) // ROWS, h)
    first_row = tile * ROWS
    at = tl.cast(batch * h + head, tl.int64) * n
    out = load_rows(Out, out_step, batch, head, first_row, n, e, ROWS, E, True).to(tl.float32)
    d_out = load_rows(D_Out, d_out_step, batch, head, first_row, n, e, ROWS, E, True).to(tl.float32)
    row = first_row + tl.arange(0, ROWS).to(INDEX)
    tl.store(Delta + at + row, tl.sum(out * d_out, 1), mask=row < n)


@triton.jit
def keys_kernel(
    Q, K, V, Bias, Slopes, Blocks, Starts, Ends, q_step, k_step, v_step, bias_step, D_Out, Lse, Delta, d_out_step, D_K, D_V,
    h, g, n, m, p, r, prefix, window, sinks, scale,
    d: tl.constexpr, e: tl.constexpr, D: tl.constexpr, E: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    BLOCK: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """The gradients of one tile of keys and values of one key head, over all query heads of its group."""
    tile, key_head, batch = program_of((m + KEYS - 1) // KEYS, g)
    first_key = tile * KEYS
    key, row = tl.arange(0, KEYS).to(INDEX)[:, None], tl.arange(0, ROWS).to(INDEX)[None, :]
    k = load_rows(K, k_step, batch, key_head, first_key, m, d, KEYS, D, True)
    v = load_rows(V, v_step, batch, key_head, first_key, m, e, KEYS, E, True)
    low, whole, whole_end, high, starts, ends = rows_of_keys(
        first_key, key, batch, n, m, prefix, window, sinks, Starts, Ends, ROWS, KEYS, CAUSAL, WINDOW
    )
    d_k = tl.full([KEYS, D], 0.0, tl.float32)
    d_v = tl.full([KEYS, E], 0.0, tl.float32)
    first_head, group, inner = key_head * (h // g), h // g, whole_end - whole
    for MASKED in tl.static_range(2):
        count = high - low - inner if MASKED else inner
        for i in range(count * group):
            head = first_head + i // count
            kept = tl.cast(batch * h + head, tl.int64) * n
            first_row = visit(i % count, low, whole, whole_end, 0, MASKED) * ROWS
            shown, some = blocks_at(Blocks, head, p, r, n, m, first_row, first_key, row, key, BLOCK)
            if some:
                q = load_rows(Q, q_step, batch, head, first_row, n, d, ROWS, D, MASKED)
                d_out = load_rows(D_Out, d_out_step, batch, head, first_row, n, e, ROWS, E, MASKED)
                lse = load_row(Lse + kept, first_row, n, float("inf"), ROWS, MASKED)
                delta = load_row(Delta + kept, first_row, n, 0.0, ROWS, MASKED)
                raw = tl.dot(k, tl.trans(q), input_precision="ieee")
                score, unit = scores(raw, scale, Bias, bias_step, Slopes, head, n, m, first_row, first_key, row, key)
                if MASKED:
                    place = first_row + row + m - n
                    seen = visible(place, first_key + key, prefix, window, sinks, CAUSAL, WINDOW) & (first_key + key < m)
                    if Starts is not None:
                        seen &= (place >= starts) & (place < ends)
                    score = tl.where(seen, score, float("-inf"))
                if Blocks is not None:
                    score = tl.where(shown, score, float("-inf"))
                weight = tl.exp2(score * unit - lse[None, :])
                d_v = tl.dot(rounded(weight, Q.dtype.element_ty).to(q.dtype), d_out, d_v, input_precision="ieee")
                d_score = weight * (tl.dot(v, tl.trans(d_out), input_precision="ieee") - delta[None, :])
                d_k = tl.dot(rounded(d_score, Q.dtype.element_ty).to(q.dtype), q, d_k, input_precision="ieee")
    store_rows(D_K, batch * g + key_head, d_k * scale, first_key, m, d, KEYS, D)
    store_rows(D_V, batch * g + key_head, d_v, first_key, m, e, KEYS, E)


@triton.jit
def queries_kernel(
    Q, K, V, Bias, Slopes, Blocks, Starts, Ends, q_step, k_step, v_step, bias_step, D_Out, Lse, Delta, d_out_step, D_Q,
    h, g, n, m, p, r, prefix, window, sinks, scale,
    d: tl.constexpr, e: tl.constexpr, D: tl.constexpr, E: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    BLOCK: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """The gradients of one tile of queries of one head."""
    row_tiles = (n + ROWS - 1) // ROWS
    tile, head, batch = program_of(row_tiles, h)
    first_row = (row_tiles - 1 - tile) * ROWS
    row, key = tl.arange(0, ROWS).to(INDEX)[:, None], tl.arange(0, KEYS).to(INDEX)[None, :]
    key_head = head // (h // g)
    low, whole, whole_end, high, sunk, starts, ends = keys_of_rows(
        first_row, row, batch, n, m, prefix, window, sinks, Starts, Ends, ROWS, KEYS, CAUSAL, WINDOW
    )
    kept = tl.cast(batch * h + head, tl.int64) * n
    q = load_rows(Q, q_step, batch, head, first_row, n, d, ROWS, D, True)
    d_out = load_rows(D_Out, d_out_step, batch, head, first_row, n, e, ROWS, E, True)
    lse = load_row(Lse + kept, first_row, n, float("inf"), ROWS, True)
    delta = load_row(Delta + kept, first_row, n, 0.0, ROWS, True)
    d_q = tl.full([ROWS, D], 0.0, tl.float32)
    inner = whole_end - whole
    for MASKED in tl.static_range(2):
        for i in range(sunk + high - low - inner if MASKED else inner):
            first_key = visit(i, low, whole, whole_end, sunk, MASKED) * KEYS
            shown, some = blocks_at(Blocks, head, p, r, n, m, first_row, first_key, row, key, BLOCK)
            if some:
                k = load_rows(K, k_step, batch, key_head, first_key, m, d, KEYS, D, MASKED)
                v = load_rows(V, v_step, batch, key_head, first_key, m, e, KEYS, E, MASKED)
                raw = tl.dot(q, tl.trans(k), input_precision="ieee")
                score, unit = scores(raw, scale, Bias, bias_step, Slopes, head, n, m, first_row, first_key, row, key)
                if MASKED:
                    seen = visible(first_row + row + m - n, first_key + key, prefix, window, sinks, CAUSAL, WINDOW)
                    seen &= first_key + key < m
                    if Starts is not None:
                        seen &= (first_key + key >= starts) & (first_key + key < ends)
                    score = tl.where(seen, score, float("-inf"))
                if Blocks is not None:
                    score = tl.where(shown, score, float("-inf"))
                weight = tl.exp2(score * unit - lse[:, None])
                d_score = weight * (tl.dot(d_out, tl.trans(v), input_precision="ieee") - delta[:, None])
                d_q = tl.dot(rounded(d_score, K.dtype.element_ty).to(k.dtype), k, d_q, input_precision="ieee")
    store_rows(D_Q, batch * h + head, d_q * scale, first_row, n, d, ROWS, D)


@triton.jit
def bias_kernel(
    Q, K, V, Bias, Slopes, Blocks, Starts, Ends, q_step, k_step, v_step, bias_step, D_Out, Lse, Delta, d_out_step, D_Bias,
    b, h, g, n, m, p, r, prefix, window, sinks, scale,
    d: tl.constexpr, e: tl.constexpr, D: tl.constexpr, E: tl.constexpr, ROWS: tl.constexpr, KEYS: tl.constexpr,
    BLOCK: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """The gradients of one tile of the bias of one head, over the batch."""
    key_tile, row_tile, head = program_of((m + KEYS - 1) // KEYS, (n + ROWS - 1) // ROWS)
    first_row, first_key = row_tile * ROWS, key_tile * KEYS
    row, key = tl.arange(0, ROWS).to(INDEX)[:, None], tl.arange(0, KEYS).to(INDEX)[None, :]
    key_head = head // (h // g)
    inside = (first_row + row < n) & (first_key + key < m)
    shown, some = blocks_at(Blocks, head, p, r, n, m, first_row, first_key, row, key, BLOCK)
    d_bias = tl.full([ROWS, KEYS], 0.0, tl.float32)
    for batch in range(b):
        low, _, _, high, sunk, starts, ends = keys_of_rows(
            first_row, row, batch, n, m, prefix, window, sinks, Starts, Ends, ROWS, KEYS, CAUSAL, WINDOW
        )
        if some & ((key_tile < sunk) | ((key_tile >= low) & (key_tile < high))):
            kept = tl.cast(batch * h + head, tl.int64) * n
            q = load_rows(Q, q_step, batch, head, first_row, n, d, ROWS, D, True)
            k = load_rows(K, k_step, batch, key_head, first_key, m, d, KEYS, D, True)
            v = load_rows(V, v_step, batch, key_head, first_key, m, e, KEYS, E, True)
            d_out = load_rows(D_Out, d_out_step, batch, head, first_row, n, e, ROWS, E, True)
            lse = load_row(Lse + kept, first_row, n, float("inf"), ROWS, True)
            delta = load_row(Delta + kept, first_row, n, 0.0, ROWS, True)
            raw = tl.dot(q, tl.trans(k), input_precision="ieee")
            score, unit = scores(raw, scale, Bias, bias_step, Slopes, head, n, m, first_row, first_key, row, key)
            seen = inside & visible(first_row + row + m - n, first_key + key, prefix, window, sinks, CAUSAL, WINDOW)
            if Starts is not None:
                seen &= (first_key + key >= starts) & (first_key + key < ends)
            if Blocks is not None:
                seen &= shown
            weight = tl.exp2(tl.where(seen, score, float("-inf")) * unit - lse[:, None])
            d_bias += weight * (tl.dot(d_out, tl.trans(v), input_precision="ieee") - delta[:, None])
    at = D_Bias + (tl.cast(head, tl.int64) * n + first_row) * m + first_key
    tl.store(at + row * m + key, rounded(d_bias, D_Bias.dtype.element_ty), mask=inside)


@triton.jit
def program_of(first, second):
    """The number of this program along three axes, the first of which runs fastest."""
    number = tl.program_id(0).to(INDEX)
    return number % first, number // first % second, number // first // second


@triton.jit
def load_rows(
    matrix, step, batch, head, first, count, width: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr, MASKED: tl.constexpr
):
    """Rows first ... first + ROWS - 1 of a matrix of `count` rows; zeros beyond its width, and beyond its end if MASKED."""
    row, column = tl.arange(0, ROWS).to(INDEX)[:, None], tl.arange(0, WIDTH).to(INDEX)[None, :]
    at = matrix + tl.cast(batch, tl.int64) * step[0] + tl.cast(head, tl.int64) * step[1]
    at += tl.cast(first, tl.int64) * step[2] + (row * step[2] + column * step[3])
    if MASKED:
        if width == WIDTH:
            rows = tl.load(at, mask=first + row < count, other=0.0)
        else:
            rows = tl.load(at, mask=(first + row < count) & (column < width), other=0.0)
    elif width == WIDTH:
        rows = tl.load(at)
    else:
        rows = tl.load(at, mask=column < width, other=0.0)
    if WIDEN:
        rows = rows.to(tl.float32)
    return rows


@triton.jit
def load_row(vector, first, count, other, SIZE: tl.constexpr, MASKED: tl.constexpr):
    """Numbers first ... first + SIZE - 1 of `count`; `other` beyond the end."""
    at = first + tl.arange(0, SIZE).to(INDEX)
    return tl.load(vector + at, mask=at < count, other=other) if MASKED else tl.load(vector + at)


@triton.jit
def store_rows(matrix, head, rows, first, count, width: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """Rows first ... first + ROWS - 1 of `count`, into contiguous memory."""
    row, column = tl.arange(0, ROWS).to(INDEX)[:, None], tl.arange(0, WIDTH).to(INDEX)[None, :]
    at = matrix + (tl.cast(head, tl.int64) * count + first) * width + (row * width + column)
    tl.store(at, rounded(rows, matrix.dtype.element_ty), mask=(first + row < count) & (column < width))


@triton.jit
def rounded(numbers, dtype: tl.constexpr):
    """Numbers in a dtype. Rounded to nearest in the interpreter too, which only cuts off what bfloat16 has no bits for."""
    if WIDEN and dtype == tl.bfloat16:
        far = numbers * 65537.0
        numbers = far - (far - numbers)
    return numbers.to(dtype)


@triton.jit
def scores(raw, scale, Bias, bias_step, Slopes, head, n, m, first_row, first_key, row, key):
    """Scores, and the unit that brings them to base 2: left to the caller where nothing is added to the product."""
    unit = scale * LOG2E
    if Bias is not None or Slopes is not None:
        raw = raw * unit
        unit = 1.0
    if Bias is not None:
        at = Bias + tl.cast(head, tl.int64) * bias_step[0]
        at += tl.cast(first_row, tl.int64) * bias_step[1] + tl.cast(first_key, tl.int64) * bias_step[2]
        inside = (first_row + row < n) & (first_key + key < m)
        raw += LOG2E * tl.load(at + (row * bias_step[1] + key * bias_step[2]), mask=inside, other=0.0).to(tl.float32)
    if Slopes is not None:
        raw -= tl.load(Slopes + head) * LOG2E * tl.abs(first_row + row + m - n - first_key - key).to(tl.float32)
    return raw, unit


@triton.jit
def visible(place, key, prefix, window, sinks, CAUSAL: tl.constexpr, WINDOW: tl.constexpr):
    """Whether a query at a place sees a key."""
    seen = key >= 0
    if CAUSAL:
        seen = (key <= place) | (key < prefix)
    if WINDOW:
        seen &= (place - key < window) | (key < sinks)
    return seen


@triton.jit
def blocks_at(Blocks, head, p, r, n, m, first_row, first_key, row, key, BLOCK: tl.constexpr):
    """What the blocks show of a tile, and whether they show any of it."""
    shown = row + key >= 0
    some = True
    if Blocks is not None:
        of_row, of_key = (first_row + row) // BLOCK, (first_key + key) // BLOCK
        inside = (first_row + row < n) & (first_key + key < m)
        shown = tl.load(Blocks + tl.cast(head, tl.int64) * p * r + (of_row * r + of_key), mask=inside, other=0) > 0
        some = tl.max(shown.to(tl.int32)) > 0
    return shown, some


@triton.jit
def keys_of_rows(
    first_row, row, batch, n, m, prefix, window, sinks, Starts, Ends,
    ROWS: tl.constexpr, KEYS: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Which tiles of keys a tile of queries sees: low ... high - 1 and before them 0 ... sunk - 1; all of its queries see
    all of whole ... whole_end - 1. And the documents of its queries."""
    first, last = first_row + m - n, tl.minimum(first_row + ROWS, n) - 1 + m - n
    low, all_low, all_high, high = 0, 0, m, m
    starts, ends = None, None
    if CAUSAL:
        all_high, high = tl.maximum(first + 1, prefix), tl.maximum(last + 1, prefix)
    if WINDOW:
        low, all_low = first - window + 1, last - window + 1
    if Starts is not None:
        Starts += tl.cast(batch, tl.int64) * m
        Ends += tl.cast(batch, tl.int64) * m
        place = first + row
        # A query before the first key is of no document.
        starts = tl.load(Starts + place, mask=(place >= 0) & (place <= last), other=0)
        ends = tl.load(Ends + place, mask=(place >= 0) & (place <= last), other=0)
        low = tl.maximum(low, tl.load(Starts + first, mask=first >= 0, other=0))
        all_low = tl.maximum(all_low, tl.load(Starts + last, mask=last >= 0, other=0))
        all_high = tl.minimum(all_high, tl.load(Ends + first, mask=first >= 0, other=0))
        high = tl.minimum(high, tl.load(Ends + last, mask=last >= 0, other=0))
    low, whole, whole_end, high = in_tiles(low, all_low, all_high, high, m, KEYS)
    sunk = 0
    if WINDOW:
        sunk = tl.minimum((tl.minimum(sinks, m) + KEYS - 1) // KEYS, low)
    return low, whole, whole_end, high, sunk, starts, ends


@triton.jit
def rows_of_keys(
    first_key, key, batch, n, m, prefix, window, sinks, Starts, Ends,
    ROWS: tl.constexpr, KEYS: tl.constexpr, CAUSAL: tl.constexpr, WINDOW: tl.constexpr,
):  # fmt: skip
    """Which tiles of queries see a tile of keys: low ... high - 1, and all of whole ... whole_end - 1 see all of it. And the
    documents of its keys."""
    last_key = tl.minimum(first_key + KEYS, m) - 1
    # Places of queries, until the last lines.
    low, all_low, all_high, high = m - n, m - n, m, m
    starts, ends = None, None
    if CAUSAL:
        low, all_low = tl.where(first_key < prefix, low, first_key), tl.where(last_key < prefix, all_low, last_key)
    if WINDOW:
        all_high = tl.where(last_key < sinks, m, first_key + window)
        high = tl.where(first_key < sinks, m, last_key + window)
    if Starts is not None:
        Starts += tl.cast(batch, tl.int64) * m
        Ends += tl.cast(batch, tl.int64) * m
        starts = tl.load(Starts + first_key + key, mask=first_key + key < m, other=0)
        ends = tl.load(Ends + first_key + key, mask=first_key + key < m, other=0)
        low, all_low = tl.maximum(low, tl.load(Starts + first_key)), tl.maximum(all_low, tl.load(Starts + last_key))
        all_high, high = tl.minimum(all_high, tl.load(Ends + first_key)), tl.minimum(high, tl.load(Ends + last_key))
    if first_key + KEYS > m:
        all_high = all_low
    past = m - n
    low, whole, whole_end, high = in_tiles(low - past, all_low - past, all_high - past, high - past, n, ROWS)
    return low, whole, whole_end, high, starts, ends


@triton.jit
def in_tiles(low, all_low, all_high, high, count, SIZE: tl.constexpr):
    """Ranges of `count` numbers as ranges of tiles: those touched, and within them those contained."""
    low, all_low = tl.minimum(tl.maximum(low, 0), count), tl.minimum(tl.maximum(all_low, 0), count)
    all_high, high = tl.minimum(tl.maximum(all_high, 0), count), tl.minimum(tl.maximum(high, 0), count)
    low, high = low // SIZE, (high + SIZE - 1) // SIZE
    high = tl.maximum(high, low)
    whole = tl.minimum((all_low + SIZE - 1) // SIZE, high)
    return low, whole, tl.maximum(all_high // SIZE, whole), high


@triton.jit
def visit(i, low, whole, whole_end, sunk, MASKED: tl.constexpr):
    """The i-th tile that is visited without a mask, or with one: sinks, then what lies before the whole tiles, then after."""
    tile = whole + i
    if MASKED:
        before = sunk + whole - low
        tile = tl.where(i < sunk, i, tl.where(i < before, low + i - sunk, whole_end + i - before))
    return tile
