"""Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762, eq. 1) with every visibility.

Where papers and libraries disagree, this side is taken:
- n queries are the last n of m keys (lower right, as FlashAttention >= 2.1 and any decoder with a cache);
  torch's `is_causal` aligns upper left.
- A window of w shows w keys, the query's own position included (flash-attn's `left=w` shows w + 1).
- A query that sees no key gives zeros, and no gradient (a plain softmax gives NaN; masking by a large negative
  number gives the mean of the values).
- Query head i reads key head i // (h / g): consecutive groups, as torch's `enable_gqa`.
- Scores are scaled by d^-1/2, then `bias` is added unscaled.
- Normalisation comes after the product with the values, as in every fused kernel; the function is the same.
"""

import torch
from torch import Tensor

from harness.spec import Bunch, Case, spec


@spec(
    "q[b h n d], k[b g m d], v[b g m e], bias[h n m]? -> out[b h n e]",
    b=2,
    h=6,
    g=3,
    n=37,
    m=53,
    d=8,
    e=5,
    cases={
        "plain": {},
        "same_width": {"e": 8},  # values as wide as keys, all that some kernels take
        "causal": {"visibility": "causal", "m": 37},
        "longer_past": {"visibility": "causal", "n": 7},  # upper-left alignment
        "no_key": {"visibility": "causal", "n": 53, "m": 37},  # NaN or mean instead of zeros
        "decode": {"visibility": "causal", "n": 1},  # the one query sees every key
        "prefix": {"visibility": "prefix", "prefix": 11, "m": 37},  # the prefix sees itself whole
        "prefix_longer_past": {"visibility": "prefix", "prefix": 45, "n": 13},
        "window": {"visibility": "sliding_window", "window": 8, "m": 37},  # w or w + 1 keys
        "window_longer_past": {"visibility": "sliding_window", "window": 20, "n": 13},
        "window_of_one": {"visibility": "sliding_window", "window": 1, "m": 37},  # each sees itself alone
        "biased": {"bias": True},
        "biased_causal": {"bias": True, "visibility": "causal", "n": 29},
        "every_head_its_own": {"g": 6, "e": 8},
        "one_key_head": {"g": 1},
        "one_key": {"m": 1},
        "batch_of_one": {"b": 1, "visibility": "causal", "m": 37},
        "odd_widths": {"b": 3, "h": 8, "g": 2, "n": 11, "d": 20, "e": 27},  # no multiple of 8, values wider than keys
        "very_wide": {"b": 1, "h": 2, "g": 1, "n": 5, "m": 33, "d": 200, "e": 200},
        "biased_no_key": {"bias": True, "visibility": "causal", "n": 53, "m": 37},
        "biased_decode": {"bias": True, "visibility": "causal", "n": 1},
        "biased_window": {"bias": True, "visibility": "sliding_window", "window": 8, "m": 37},
        "window_no_key": {"visibility": "sliding_window", "window": 20, "n": 53, "m": 37},
        "window_beyond": {"visibility": "sliding_window", "window": 99, "n": 13},  # wider than there are keys
        "prefix_beyond": {"visibility": "prefix", "prefix": 99, "n": 13, "m": 37},
        "prefix_no_past": {"visibility": "prefix", "prefix": 5, "n": 53, "m": 37},  # queries that see the prefix alone
        "tiles": {"visibility": "causal", "n": 64, "m": 128, "d": 16, "e": 16},  # no partial tile
        "long": {
            "visibility": "causal",
            "n": 300,
            "m": 300,
            "b": 1,
            "h": 2,
            "g": 1,
            "d": 32,
            "e": 32,
        },  # several tiles, rescaling
        "wide": {"visibility": "causal", "n": 19, "m": 70, "h": 2, "g": 1, "d": 128, "e": 128},
    },
)
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    *,
    visibility: str = "full",
    window: int = 0,
    prefix: int = 0,
) -> Tensor:
    return attend(q, k, v, bias, visible(q.shape[2], k.shape[2], visibility, window, prefix, q.device))


def visible(n: int, m: int, visibility: str, window: int = 0, prefix: int = 0, device: torch.device | None = None) -> Tensor:
    """Which of m keys each of n queries sees: [n m], True where visible."""
    query = torch.arange(m - n, m, device=device)[:, None]
    key = torch.arange(m, device=device)[None, :]
    past = key <= query
    match visibility:
        case "full":
            return torch.ones(n, m, dtype=torch.bool, device=device)
        case "causal":
            return past
        case "prefix":
            return past | (key < prefix)
        case "sliding_window":
            return past & (query - key < window)
    raise ValueError(f"no visibility named {visibility!r}; known: full, causal, prefix, sliding_window")


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, seen: Tensor, scale: float | None = None) -> Tensor:
    """Attention over the keys that are `seen` [n m]."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    score = (q @ k.mT) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        score = score + bias
    score = score.masked_fill(~seen, -torch.inf)
    top = score.amax(-1, keepdim=True).detach()
    weight = torch.exp(score - torch.where(top.isfinite(), top, 0.0))
    total = weight.sum(-1, keepdim=True)
    return (weight @ v) / torch.where(total > 0, total, 1.0)


@attention.family
def sharp(x: Bunch, case: Case, rng: torch.Generator):
    """Retrieval-like: each query points at one key that it sees."""
    seen = visible(case.n, case.m, case.visibility, case.window, case.prefix)
    return {"q": 6 * _pointed_at(x.k, torch.rand(case.n, case.m, generator=rng).masked_fill(~seen, -1).argmax(-1), case)}


@attention.family
def needle(x: Bunch, case: Case, rng: torch.Generator):
    """The mass on keys at the edges of tiles, and on the last one."""
    edges = sorted({edge for tile in (16, 32, 64, 128, 256) for edge in (0, tile - 1, tile, case.m - 1) if edge < case.m})
    wanted = torch.tensor([[edges[-1 - (i % len(edges))]] for i in range(case.n)])
    seen = visible(case.n, case.m, case.visibility, case.window, case.prefix)
    nearest = (torch.arange(case.m)[None, :] - wanted).abs().masked_fill(~seen, case.m).argmin(-1)
    return {"q": 9 * _pointed_at(x.k, nearest, case)}


@attention.family
def sunk(x: Bunch, case: Case, rng: torch.Generator):
    """All scores lie near -20,000: what is masked by a large negative number, and not left out, comes to the top."""
    far = (20_000 * case.d**0.5) ** 0.5
    first = torch.arange(case.d) == 0
    return {"q": torch.where(first, far, x.q), "k": torch.where(first, -far, x.k)}


def _pointed_at(k: Tensor, key: Tensor, case: Case) -> Tensor:
    return torch.nn.functional.normalize(k, dim=-1).repeat_interleave(case.h // case.g, dim=1)[:, :, key] * 2


def _some_key_for_all(case: Case) -> bool:
    return case.visibility == "full" or case.n <= case.m


@attention.law(when=lambda case: case.visibility in ("causal", "sliding_window") and min(case.n, case.m) > 1)
def the_future_is_invisible(run, x: Bunch, rng):
    n, m = x.q.shape[2], x.k.shape[2]
    shown = rng.randrange(max(1, m - n + 1), m)  # the keys that the queries kept for comparison can see
    later = (torch.arange(m, device=x.k.device) >= shown)[:, None]
    k, v = torch.where(later, -9 * x.k.flip(2), x.k), torch.where(later, 99 * x.v.flip(2), x.v)
    kept = slice(0, shown - (m - n))
    return run(x).out[:, :, kept], run(x, k=k, v=v).out[:, :, kept]


@attention.law(when=_some_key_for_all)
def equal_values_come_back(run, x: Bunch, rng):
    row = x.v[:, :, :1]
    expected = row.repeat_interleave(x.q.shape[1] // x.k.shape[1], dim=1).expand(-1, -1, x.q.shape[2], -1)
    return run(x, v=row.expand_as(x.v).contiguous()).out, expected


@attention.law(when=lambda case: case.b > 1)
def a_batch_is_its_rows(run, x: Bunch, rng):
    row = rng.randrange(x.q.shape[0])
    alone = {name: x[name][row : row + 1] for name in ("q", "k", "v")}
    return run(x).out[row : row + 1], run(x, **alone).out


@attention.law(when=lambda case: case.g > 1 and not case.bias)
def permuting_heads_permutes_the_output(run, x: Bunch, rng):
    group = x.q.shape[1] // x.k.shape[1]
    order = rng.sample(range(x.k.shape[1]), x.k.shape[1])
    heads = [head * group + i for head in order for i in range(group)]
    return run(x).out[:, heads], run(x, q=x.q[:, heads], k=x.k[:, order], v=x.v[:, order]).out


@attention.law(when=lambda case: case.n > 1 and not case.bias and _some_key_for_all(case))
def the_last_queries_need_no_others(run, x: Bunch, rng):
    first = rng.randrange(1, x.q.shape[2])
    return run(x).out[:, :, first:], run(x, q=x.q[:, :, first:]).out


def _seen(q: Tensor, k: Tensor, options: dict) -> Tensor:
    return visible(q.shape[2], k.shape[2], **options, device=q.device)


def _with_mask(name: str, change) -> None:
    """A mistake of visibility: `change(seen, query, key, options)` is the wrong mask."""

    def wrong(q, k, v, bias=None, **options):
        n, m = q.shape[2], k.shape[2]
        query, key = torch.arange(m - n, m)[:, None], torch.arange(m)[None, :]
        return attend(q, k, v, bias, change(_seen(q, k, options), query, key, options))

    attention.mistake(name)(wrong)


def _restricted(options: dict) -> bool:
    return options["visibility"] != "full"


_with_mask("the mask shows one key of the future", lambda seen, q, k, o: seen | (k == q + 1) if _restricted(o) else seen)
_with_mask("the mask hides the query's own position", lambda seen, q, k, o: seen & (k != q) if _restricted(o) else seen)
_with_mask("causal is aligned upper left", lambda seen, q, k, o: k <= q - q.min() if o["visibility"] == "causal" else seen)
_with_mask("causal is ignored", lambda seen, q, k, o: seen | (o["visibility"] == "causal"))
_with_mask(
    "a window of w shows w + 1 keys",
    lambda seen, q, k, o: seen | (q - k == o["window"]) if o["visibility"] == "sliding_window" else seen,
)
_with_mask(
    "a window of w shows w - 1 keys",
    lambda seen, q, k, o: seen & ((q - k < o["window"] - 1) | (q == k)) if o["visibility"] == "sliding_window" else seen,
)
_with_mask("the window is ignored", lambda seen, q, k, o: (k <= q) if o["visibility"] == "sliding_window" else seen)
_with_mask("the prefix is ignored", lambda seen, q, k, o: (k <= q) if o["visibility"] == "prefix" else seen)
_with_mask(
    "the prefix is one key short",
    lambda seen, q, k, o: seen & ((k <= q) | (k < o["prefix"] - 1)) if o["visibility"] == "prefix" else seen,
)
_with_mask("the last partial tile of 16 keys is dropped", lambda seen, q, k, o: seen & (k < max(16, k.numel() // 16 * 16)))
_with_mask("the last key is dropped", lambda seen, q, k, o: seen & ((k < k.max()) | (k.numel() == 1)))
_with_mask("the first key is dropped", lambda seen, q, k, o: seen & ((k > 0) | (k.numel() == 1)))
_with_mask("the last key of each tile of 16 is dropped", lambda seen, q, k, o: seen & (k % 16 != 15))


@attention.mistake("a query that sees no key gives the mean of the values")
def _(q, k, v, bias=None, **options):
    seen = _seen(q, k, options)
    return attend(q, k, v, bias, seen | ~seen.any(-1, keepdim=True))


@attention.mistake("a query that sees no key gives NaN")
def _(q, k, v, bias=None, **options):
    seen = _seen(q, k, options)
    return torch.where(seen.any(-1)[:, None], attend(q, k, v, bias, seen), torch.nan)


@attention.mistake("scores are scaled by (d + 1)^-1/2")
def _(q, k, v, bias=None, **options):
    return attend(q, k, v, bias, _seen(q, k, options), scale=(q.shape[-1] + 1) ** -0.5)


@attention.mistake("scores are not scaled")
def _(q, k, v, bias=None, **options):
    return attend(q, k, v, bias, _seen(q, k, options), scale=1.0)


@attention.mistake("query heads are dealt to key heads in turn")
def _(q, k, v, bias=None, **options):
    group = q.shape[1] // k.shape[1]
    return attend(q, k.repeat(1, group, 1, 1), v.repeat(1, group, 1, 1), bias, _seen(q, k, options))


@attention.mistake("the bias is scaled with the scores")
def _(q, k, v, bias=None, **options):
    return attend(q, k, v, None if bias is None else bias * q.shape[-1] ** -0.5, _seen(q, k, options))


@attention.mistake("the bias is dropped")
def _(q, k, v, bias=None, **options):
    return attend(q, k, v, None, _seen(q, k, options))


@attention.mistake("the maximum is not subtracted")
def _(q, k, v, bias=None, **options):
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    score = q @ k.mT * q.shape[-1] ** -0.5 + (0 if bias is None else bias)
    weight = torch.exp(score.float()).double() * _seen(q, k, options)
    total = weight.sum(-1, keepdim=True)
    return weight @ v / torch.where(total > 0, total, 1.0)


def _in_tiles(q, k, v, bias, seen, rescale, tile=16):
    """Online softmax over tiles of keys, with `rescale(factor, tile number)` in place of the factor of what came before."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    score = q @ k.mT * q.shape[-1] ** -0.5 + (0 if bias is None else bias)
    score = score.masked_fill(~seen, -torch.inf)
    top = torch.full_like(score[..., :1], -torch.inf)
    total, out = torch.zeros_like(top), torch.zeros_like(q[..., :1] * v[:, :, :1].sum() * 0).expand(*q.shape[:3], v.shape[-1])
    for number, first in enumerate(range(0, score.shape[-1], tile)):
        part = score[..., first : first + tile]
        higher = torch.maximum(top, part.amax(-1, keepdim=True).detach())
        base = torch.where(higher.isfinite(), higher, 0.0)
        factor, weight = torch.where(top.isfinite(), torch.exp(top - base), 0.0), torch.exp(part - base)
        of_out, of_total = rescale(factor, number)
        out = out * of_out + weight @ v[:, :, first : first + tile]
        total = total * of_total + weight.sum(-1, keepdim=True)
        top = higher
    return out / torch.where(total > 0, total, 1.0)


@attention.mistake("the accumulator is not rescaled when the maximum rises")
def _(q, k, v, bias=None, **options):
    return _in_tiles(q, k, v, bias, _seen(q, k, options), lambda factor, number: (1.0, factor))


@attention.mistake("the sum of weights is not rescaled when the maximum rises")
def _(q, k, v, bias=None, **options):
    return _in_tiles(q, k, v, bias, _seen(q, k, options), lambda factor, number: (factor, 1.0))


@attention.mistake("the accumulator is rescaled one tile late")
def _(q, k, v, bias=None, **options):
    return _in_tiles(q, k, v, bias, _seen(q, k, options), lambda factor, number: (factor if number > 1 else 1.0, factor))


@attention.mistake("the accumulator of the first tile is overwritten")
def _(q, k, v, bias=None, **options):
    return _in_tiles(q, k, v, bias, _seen(q, k, options), lambda factor, number: (factor * (number != 1), factor))


@attention.mistake("weights are rounded to four bits")
def _(q, k, v, bias=None, **options):
    m = k.shape[2]
    identity = torch.eye(m, dtype=q.dtype).expand(k.shape[0], k.shape[1], m, m)
    weight = attend(q, k, identity, bias, _seen(q, k, options))
    coarse = weight + ((15 * weight).round() / 15 - weight).detach()
    return coarse @ v.repeat_interleave(q.shape[1] // k.shape[1], dim=1)


def _backward_of(right: Tensor, wrong: Tensor) -> Tensor:
    """The right value with the gradient of the wrong one."""
    return right.detach() + wrong - wrong.detach()


@attention.mistake("backward forgets the bias")
def _(q, k, v, bias=None, **options):
    seen = _seen(q, k, options)
    no_bias = None if bias is None else bias * 0
    return _backward_of(attend(q, k, v, bias, seen), attend(q, k, v, no_bias, seen))


@attention.mistake("backward takes dK of one head for that of its group")
def _(q, k, v, bias=None, **options):
    group = q.shape[1] // k.shape[1]
    alone = torch.arange(q.shape[1])[:, None, None] % group == 0
    each = k.repeat_interleave(group, dim=1)
    return attend(q, torch.where(alone, each, each.detach()), v.repeat_interleave(group, dim=1), bias, _seen(q, k, options))


@attention.mistake("backward forgets the scale in dQ")
def _(q, k, v, bias=None, **options):
    seen = _seen(q, k, options)
    longer = q.detach() + (q - q.detach()) * q.shape[-1] ** 0.5
    return attend(longer, k, v, bias, seen)


@attention.mistake("backward leaves out the row sum of dO * O")
def _(q, k, v, bias=None, **options):
    seen = _seen(q, k, options)
    group = q.shape[1] // k.shape[1]
    kk, vv = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    score = (q @ kk.mT * q.shape[-1] ** -0.5 + (0 if bias is None else bias)).masked_fill(~seen, -torch.inf)
    top = score.amax(-1, keepdim=True).detach()
    weight = torch.exp(score - torch.where(top.isfinite(), top, 0.0))
    total = weight.sum(-1, keepdim=True).detach()
    return weight @ vv / torch.where(total > 0, total, 1.0)


@attention.mistake("backward leaves the last row of dV at zero")
def _(q, k, v, bias=None, **options):
    last = (torch.arange(v.shape[2]) == v.shape[2] - 1)[:, None]
    return attend(q, k, torch.where(last, v.detach(), v), bias, _seen(q, k, options))


@attention.mistake("gradients are one per cent too large")
def _(q, k, v, bias=None, **options):
    out = attend(q, k, v, bias, _seen(q, k, options))
    return out.detach() + 1.01 * (out - out.detach())
