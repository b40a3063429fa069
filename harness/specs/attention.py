"""Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762, eq. 1) with every visibility.

Where papers and libraries disagree, this side is taken:
- n queries are the last n of m keys (lower right, as FlashAttention >= 2.1 and any decoder with a cache);
  torch's `is_causal` aligns upper left.
- A window of w shows w keys, the query's own position included (flash-attn's `left=w` shows w + 1).
- A query that sees no key gives zeros, and no gradient (a plain softmax gives NaN; masking by a large negative
  number gives the mean of the values).
- Query head i reads key head i // (h / g): consecutive groups, as torch's `enable_gqa`.
- Scores are scaled by d^-1/2, then `bias` and ALiBi are added unscaled; a bias of -inf hides its key.
- ALiBi (Press et al. 2021, arXiv:2108.12409) takes slopes[h] * |query - key| off the scores, as flash-attn does; the
  slopes are constants, without a gradient.
- Lambda-shaped (LM-Infinite, arXiv:2308.16137; StreamingLLM, arXiv:2309.17453) shows the first `sinks` keys, and the
  last `window`, the query's own included.
- `blocks` hides keys by blocks: 1 shows, 0 hides the `block` x `block` scores of a head, counted by rows and columns.
- `documents` packs sequences: each query sees keys of its own document only. It is told by a number for each place
  (as JAX's segment ids); one document lies in one piece, and is numbered higher than what lies before it.
- Normalisation comes after the product with the values, as in every fused kernel; the function is the same.
"""

from itertools import pairwise

import torch
from torch import Tensor

from harness.spec import Bunch, Case, backward_of, spec


@spec(
    "q[b h n d], k[b g m d], v[b g m e], bias[h n m]?, slopes[h]:float32?, blocks[h p r]:int<2?, documents[b m]:int<c?"
    " -> out[b h n e]",
    b=2,
    h=6,
    g=3,
    n=37,
    m=53,
    d=8,
    e=5,
    p=1,
    r=1,
    c=4,
    cases={
        "plain": {},
        "same_width": {"e": 8},  # values as wide as keys, all that some kernels take
        "causal": {"visibility": "causal", "m": 37},
        "longer_past": {"visibility": "causal", "n": 7},  # upper-left alignment
        "no_key": {"visibility": "causal", "n": 53, "m": 37},  # NaN or mean instead of zeros
        "decode": {"visibility": "causal", "n": 1},  # the one query sees every key
        "decode_tiles": {"visibility": "causal", "b": 1, "n": 1, "m": 512},  # keys split among workers without a rest
        "alibi_decode": {"slopes": True, "visibility": "causal", "n": 1},
        "blocks_decode": {"blocks": True, "visibility": "causal", "n": 1, "r": 4},
        "documents_decode": {"documents": True, "visibility": "causal", "n": 1},
        "prefix": {"visibility": "prefix", "prefix": 11, "m": 37},  # the prefix sees itself whole
        "prefix_longer_past": {"visibility": "prefix", "prefix": 45, "n": 13},
        "window": {"visibility": "sliding_window", "window": 8, "m": 37},  # w or w + 1 keys
        "window_longer_past": {"visibility": "sliding_window", "window": 20, "n": 13},
        "window_of_one": {"visibility": "sliding_window", "window": 1, "m": 37},  # each sees itself alone
        "window_decode": {"visibility": "sliding_window", "window": 8, "n": 1},
        "biased": {"bias": True},
        "biased_causal": {"bias": True, "visibility": "causal", "n": 29},
        "every_head_its_own": {"g": 6, "e": 8},
        "one_key_head": {"g": 1},
        "one_key": {"m": 1},
        "batch_of_one": {"b": 1, "visibility": "causal", "m": 37},
        "odd_widths": {"b": 3, "h": 8, "g": 2, "n": 11, "d": 20, "e": 27},  # no multiple of 8, values wider than keys
        "narrow": {"visibility": "causal", "m": 37, "d": 1, "e": 1},
        "very_wide": {"b": 1, "h": 2, "g": 1, "n": 5, "m": 33, "d": 200, "e": 200},
        "biased_no_key": {"bias": True, "visibility": "causal", "n": 53, "m": 37},
        "biased_decode": {"bias": True, "visibility": "causal", "n": 1},
        "biased_window": {"bias": True, "visibility": "sliding_window", "window": 8, "m": 37},
        "window_no_key": {"visibility": "sliding_window", "window": 20, "n": 53, "m": 37},
        "window_beyond": {"visibility": "sliding_window", "window": 99, "n": 13},  # wider than there are keys
        "prefix_beyond": {"visibility": "prefix", "prefix": 99, "n": 13, "m": 37},
        "prefix_no_past": {"visibility": "prefix", "prefix": 5, "n": 53, "m": 37},  # queries that see the prefix alone
        "alibi": {"slopes": True, "m": 37},
        "alibi_causal": {"slopes": True, "visibility": "causal", "n": 29},
        "alibi_window": {"slopes": True, "visibility": "sliding_window", "window": 8, "m": 37},
        "alibi_biased": {"slopes": True, "bias": True, "visibility": "causal", "m": 37},
        "lambda": {"visibility": "lambda", "window": 8, "sinks": 4, "m": 37},
        "lambda_longer_past": {"visibility": "lambda", "window": 20, "sinks": 1, "n": 13},
        "lambda_beyond": {"visibility": "lambda", "window": 5, "sinks": 99, "n": 13},  # more sinks than keys
        "lambda_no_past": {"visibility": "lambda", "window": 5, "sinks": 3, "n": 53, "m": 37},
        "lambda_decode": {"visibility": "lambda", "window": 16, "sinks": 4, "n": 1},
        "blocks": {"blocks": True, "p": 3, "r": 4},
        "blocks_causal": {"blocks": True, "visibility": "causal", "p": 2, "r": 4, "n": 29},
        "blocks_of_64": {"blocks": True, "block": 64, "visibility": "causal", "b": 1, "h": 4, "g": 2}
        | {"n": 150, "m": 150, "p": 3, "r": 3, "d": 16, "e": 16},
        "documents": {"documents": True, "m": 37},
        "documents_causal": {"documents": True, "visibility": "causal", "m": 37, "c": 7},
        "documents_longer_past": {"documents": True, "visibility": "causal", "n": 13},
        "documents_window": {"documents": True, "visibility": "sliding_window", "window": 8, "m": 37},
        "documents_alibi": {"documents": True, "visibility": "causal", "slopes": True, "m": 37},
        "documents_no_past": {"documents": True, "n": 53, "m": 37},  # queries before the first key are of no document
        "documents_long": {"documents": True, "visibility": "causal", "h": 1, "g": 1}
        | {"n": 150, "m": 150, "d": 16, "e": 16, "c": 5},
        "tiles": {"visibility": "causal", "n": 64, "m": 128, "d": 16, "e": 16},  # no partial tile
        "long": {
            "visibility": "causal",
            "n": 300,
            "m": 300,
            "b": 1,
            "h": 1,
            "g": 1,
            "d": 32,
            "e": 32,
        },  # several tiles, rescaling
        "several_big_tiles": {"visibility": "causal", "b": 1, "h": 1, "g": 1, "n": 264, "m": 520, "d": 8, "e": 8},
        "square_tiles": {"visibility": "causal", "b": 1, "h": 2, "g": 1, "n": 128, "m": 128, "d": 16, "e": 16},
        "beyond_tiles": {"visibility": "causal", "b": 1, "h": 2, "g": 1, "n": 65, "m": 129},  # a last query, a last key alone
        "window_of_a_tile": {"visibility": "sliding_window", "window": 64, "b": 1, "h": 2, "g": 1, "n": 70, "m": 150},
        "prefix_of_a_tile": {"visibility": "prefix", "prefix": 64, "b": 1, "h": 2, "g": 1, "n": 140, "m": 150},
        "many_heads": {"bias": True, "slopes": True, "visibility": "causal", "b": 5, "h": 20, "g": 10}
        | {"n": 5, "m": 7, "d": 17, "e": 19},  # and odd widths
        # What each visibility and bias is beyond the first tile, of 64 or 128, and in the rows of a batch other than the first.
        "full_long": {"h": 2, "g": 1, "n": 70, "m": 150, "d": 64, "e": 64},
        "biased_long": {"bias": True, "visibility": "causal", "b": 1, "h": 2, "g": 1, "n": 70, "m": 150},
        "alibi_long": {"slopes": True, "visibility": "causal", "b": 1, "h": 2, "g": 1, "n": 70, "m": 150},
        "window_long": {"visibility": "sliding_window", "window": 70, "b": 1, "h": 2, "g": 1, "n": 140, "m": 150},
        "prefix_long": {"visibility": "prefix", "prefix": 140, "b": 1, "h": 2, "g": 1, "n": 140, "m": 150},
        "lambda_long": {"visibility": "lambda", "window": 70, "sinks": 5, "b": 1, "h": 2, "g": 1, "n": 140, "m": 150},
        "no_key_long": {"visibility": "causal", "h": 2, "g": 1, "n": 200, "m": 70},  # whole tiles of queries that see no key
        "decode_long": {"visibility": "causal", "n": 1, "m": 700},  # keys split among workers, of several heads and rows
        "hundred_thousand_keys": {"visibility": "causal", "b": 1, "h": 1, "g": 1, "n": 2, "m": 100_000, "d": 4, "e": 4},
        "wide": {"visibility": "causal", "n": 19, "m": 70, "h": 2, "g": 1, "d": 128, "e": 128},
    },
)
def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    slopes: Tensor | None = None,
    blocks: Tensor | None = None,
    documents: Tensor | None = None,
    *,
    visibility: str = "full",
    window: int = 0,
    prefix: int = 0,
    sinks: int = 0,
    block: int = 16,
) -> Tensor:
    n, m = q.shape[2], k.shape[2]
    seen = visible(n, m, visibility, window, prefix, sinks, q.device)
    if blocks is not None:
        seen = seen & by_blocks(blocks, n, m, block)
    if documents is not None:
        seen = seen & same_document(documents, n)
    return attend(q, k, v, with_distance(bias, slopes, n, m), seen)


def visible(
    n: int, m: int, visibility: str, window: int = 0, prefix: int = 0, sinks: int = 0, device: torch.device | None = None
) -> Tensor:
    """Which of m keys each of n queries sees: [n m], True where visible."""
    query, key = places(n, m, device)
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
        case "lambda":
            return past & ((query - key < window) | (key < sinks))
    raise ValueError(f"no visibility named {visibility!r}; known: full, causal, prefix, sliding_window, lambda")


def places(n: int, m: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Where n queries [n 1] and m keys [1 m] stand: the queries are the last n of m."""
    return torch.arange(m - n, m, device=device)[:, None], torch.arange(m, device=device)[None, :]


def by_blocks(blocks: Tensor, n: int, m: int, block: int) -> Tensor:
    """Which keys the blocks [h p r] show: [h n m]."""
    row, column = torch.arange(n, device=blocks.device) // block, torch.arange(m, device=blocks.device) // block
    return blocks[:, row][:, :, column] > 0


def same_document(documents: Tensor, n: int) -> Tensor:
    """Which keys are of the query's document [b m]: [b 1 n m]. A query before the first key is of none."""
    m = documents.shape[1]
    place = torch.arange(m - n, m, device=documents.device)
    own = documents[:, place.clamp(min=0)]
    return ((own[:, :, None] == documents[:, None, :]) & (place >= 0)[:, None])[:, None]


def with_distance(bias: Tensor | None, slopes: Tensor | None, n: int, m: int) -> Tensor | None:
    """The bias [h n m] with that of ALiBi."""
    if slopes is None:
        return bias
    query, key = places(n, m, slopes.device)
    linear = -slopes[:, None, None] * (query - key).abs()
    return linear if bias is None else bias + linear


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, seen: Tensor, scale: float | None = None) -> Tensor:
    """Attention over the keys that are `seen` [n m], [h n m] or [b h n m]."""
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    score = (q @ k.mT) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        score = score + bias
    return averaged(v, score.masked_fill(~seen, -torch.inf))


def averaged(v: Tensor, score: Tensor) -> Tensor:
    """Values [b h m e] by softmax weights of the scores [b h n m]: -inf hides, and where all is hidden come zeros."""
    top = score.amax(-1, keepdim=True).detach()
    weight = torch.exp(score - torch.where(top.isfinite(), top, 0.0))
    total = weight.sum(-1, keepdim=True)
    return (weight @ v) / torch.where(total > 0, total, 1.0)


_HIDDEN = "what places before the first key look up is hidden"
_NO_WEIGHT = "it is the divisor of queries that see no key, whose weights are all zero"
EQUIVALENT = {
    "same_document: documents[:, place.clamp(min=0)] -> documents[:, place]": _HIDDEN,
    "same_document: place.clamp(min=0) -> place.clamp(min=-1)": _HIDDEN,
    "attend: q.shape[-1] ** (-0.5) if scale is None else scale -> q.shape[-1] ** (-0.5)": "only mistakes give another scale",
    "averaged: score.amax(-1, keepdim=True).detach() -> score.amax(-1, keepdim=True)": "it cancels, and so does its gradient",
    "averaged: torch.where(top.isfinite(), top, 0.0) -> torch.where(top.isfinite(), top, 1.0)": (
        "where no key is seen all scores are -inf, less anything finite"
    ),
    "averaged: torch.where(total > 0, total, 1.0) -> torch.where(total > 0, total, 1.01)": _NO_WEIGHT,
    "averaged: torch.where(total > 0, total, 1.0) -> torch.where(total > 0, total, -1.0)": _NO_WEIGHT,
}


def _near(case: Case) -> dict[str, int]:
    """Keys outside of every window need not be read."""
    reach = {"sliding_window": case.window, "lambda": case.window + case.sinks}
    return {"m": min(case.m, case.n - 1 + reach[case.visibility])} if case.visibility in reach else {}


@attention.work(
    near=_near,
    cases={
        "causal": {},
        "plain": {},
        "window": {"window": 256},
        "lambda": {"window": 252, "sinks": 4},
    },
    along=("n", "m"),
    step={"n": 1},
    carried=("k", "v"),
    b=1,
    h=4,
    g=4,
    d=64,
    e=64,
)
def _(case: Case) -> float:
    """The two products, of the pairs that see each other."""
    pairs = visible(case.n, case.m, case.visibility, case.window, case.prefix, case.sinks).sum().item()
    return 2 * case.b * case.h * pairs * (case.d + case.e)


@attention.family
def normal(x: Bunch, case: Case, rng: torch.Generator):
    """Documents lie in one piece, the first of all is one token long; the slopes are those of the paper, up to a factor."""
    changes = {}
    if "documents" in x:
        one_token = (torch.arange(case.m) > 0) & (torch.arange(case.b) == 0)[:, None]
        changes["documents"] = torch.where(one_token, x.documents.clamp(min=1), x.documents).sort(1).values
        changes["documents"][0, 0] = 0
    if "slopes" in x:
        changes["slopes"] = 2 ** (-8 * (torch.arange(case.h, dtype=torch.float64) + 1) / case.h) * x.slopes.abs()[:1]
    return changes


@attention.family
def sharp(x: Bunch, case: Case, rng: torch.Generator):
    """Retrieval-like: each query points at one key that it sees."""
    draw = torch.rand(case.n, case.m, generator=rng)
    return {"q": 6 * _pointed_at(x.k, draw.masked_fill(~_shown(x, case), -1).argmax(-1), case)}


@attention.family
def needle(x: Bunch, case: Case, rng: torch.Generator):
    """The mass on keys at the edges of tiles, and on the last one."""
    edges = sorted({edge for tile in (16, 32, 64, 128, 256) for edge in (0, tile - 1, tile, case.m - 1) if edge < case.m})
    wanted = torch.tensor([[edges[-1 - (i % len(edges))]] for i in range(case.n)])
    nearest = (torch.arange(case.m)[None, :] - wanted).abs().masked_fill(~_shown(x, case), case.m).argmin(-1)
    return {"q": 9 * _pointed_at(x.k, nearest, case)}


@attention.family
def sunk(x: Bunch, case: Case, rng: torch.Generator):
    """All scores lie near -20,000: what is masked by a large negative number, and not left out, comes to the top."""
    far = (20_000 * case.d**0.5) ** 0.5
    first = torch.arange(case.d) == 0
    return {"q": torch.where(first, far, x.q), "k": torch.where(first, -far, x.k)}


@attention.family
def silent(x: Bunch, case: Case, rng: torch.Generator):
    """Queries, keys, values and biases of zeros, which are neither padding nor hidden; biases of -inf, which do hide."""
    query, key = torch.arange(case.n)[:, None], torch.arange(case.m)[:, None]
    changes = {"q": x.q * (query % 5 != 1), "k": x.k * (key % 3 != 1), "v": x.v * (key % 4 != 1)}
    if "bias" in x:
        bias = x.bias * ((query + key.mT) % 3 != 1)
        changes["bias"] = bias.masked_fill(_all_but_one(case), -torch.inf)
    return changes


def _all_but_one(case: Case) -> Tensor:
    """What to hide so that some queries see the last of their keys alone, after tiles of nothing, and some all but it: [n m]."""
    seen = visible(case.n, case.m, case.visibility, case.window, case.prefix, case.sinks)
    query, key = places(case.n, case.m)
    last = key == torch.where(seen, key, -1).amax(-1, keepdim=True)
    return ((query % 5 == 3) & ~last) | ((query % 5 == 4) & last & (seen.sum(-1, keepdim=True) > 1))


def _shown(x: Bunch, case: Case) -> Tensor:
    """Which keys each query of these inputs sees: [b h n m]."""
    seen = visible(case.n, case.m, case.visibility, case.window, case.prefix, case.sinks)
    seen = seen & by_blocks(x.blocks, case.n, case.m, case.block) if "blocks" in x else seen
    seen = seen & same_document(x.documents, case.n) if "documents" in x else seen
    return seen.expand(case.b, case.h, case.n, case.m)


def _pointed_at(k: Tensor, key: Tensor, case: Case) -> Tensor:
    """Queries along the keys of these numbers [b h n]."""
    each = torch.nn.functional.normalize(k, dim=-1).repeat_interleave(case.h // case.g, dim=1)
    return 2 * each.gather(2, key[..., None].expand(-1, -1, -1, case.d))


TILE_EDGES = (16, 32, 64, 128, 256, 512)
MANY_KEYS = 10_000  # with so many, the values are enough to judge by


def _some_key_for_all(case: Case) -> bool:
    return (case.n <= case.m or (case.visibility == "full" and not case.documents)) and not case.blocks and case.m < MANY_KEYS


def _has_a_future(case: Case) -> bool:
    return case.visibility in ("causal", "sliding_window", "lambda") and min(case.n, case.m) > 1 and case.m < MANY_KEYS


@attention.law(when=_has_a_future)
def the_future_is_invisible(run, x: Bunch, rng):
    """From every edge of a tile on, and from one other place: each head of keys of each sequence has an edge of its own."""
    b, g, m, _ = x.k.shape
    h, n = x.q.shape[1:3]
    least = max(1, m - n + 1)
    edges = [*(edge for edge in TILE_EDGES if least <= edge < m), rng.randrange(least, m)]
    plain, changed, kept = run(x).out, [], []
    for first in range(0, len(edges), b * g):
        shown = torch.tensor([edges[min(first + i, len(edges) - 1)] for i in range(b * g)], device=x.k.device).view(b, g, 1, 1)
        query, key = places(n, m, x.k.device)
        later = key.view(m, 1) >= shown
        k, v = torch.where(later, -9 * x.k.flip(2), x.k), torch.where(later, 99 * x.v.flip(2), x.v)
        kept.append(query.view(n, 1) < shown.repeat_interleave(h // g, dim=1))
        changed.append(torch.where(kept[-1], run(x, k=k, v=v).out, 0.0))
    return torch.stack([torch.where(rows, plain, 0.0) for rows in kept]), torch.stack(changed)


@attention.law(when=_some_key_for_all)
def equal_values_come_back(run, x: Bunch, rng):
    row = x.v[:, :, :1]
    expected = row.repeat_interleave(x.q.shape[1] // x.k.shape[1], dim=1).expand(-1, -1, x.q.shape[2], -1)
    return run(x, v=row.expand_as(x.v).contiguous()).out, expected


@attention.law(when=lambda case: case.documents and case.n == case.m)
def packed_documents_are_sequences_of_their_own(run, x: Bunch, rng):
    row = slice(rng.randrange(x.q.shape[0]), None)
    row = slice(row.start, row.start + 1)
    cuts = [0, *(x.documents[row][0].diff().nonzero().flatten() + 1).tolist(), x.q.shape[2]]
    alone = [
        run(x, documents=x.documents[row, a:b], **{name: x[name][row, :, a:b] for name in ("q", "k", "v")}).out
        for a, b in pairwise(cuts)
    ]
    return run(x).out[row], torch.cat(alone, dim=2)


@attention.law(when=lambda case: case.b > 1)
def a_batch_is_its_rows(run, x: Bunch, rng):
    row = rng.randrange(x.q.shape[0])
    alone = {name: x[name][row : row + 1] for name in ("q", "k", "v", "documents") if name in x}
    return run(x).out[row : row + 1], run(x, **alone).out


@attention.law(when=lambda case: case.g > 1 and not (case.bias or case.slopes or case.blocks))
def permuting_heads_permutes_the_output(run, x: Bunch, rng):
    group = x.q.shape[1] // x.k.shape[1]
    order = rng.sample(range(x.k.shape[1]), x.k.shape[1])
    heads = [head * group + i for head in order for i in range(group)]
    return run(x).out[:, heads], run(x, q=x.q[:, heads], k=x.k[:, order], v=x.v[:, order]).out


@attention.law(when=lambda case: case.n > 1 and not case.bias and _some_key_for_all(case))
def the_last_queries_need_no_others(run, x: Bunch, rng):
    first = rng.randrange(1, x.q.shape[2])
    return run(x).out[:, :, first:], run(x, q=x.q[:, :, first:]).out


def _place_options(options: dict) -> dict:
    """The options of visibility by place."""
    return {name: options[name] for name in ("visibility", "window", "prefix", "sinks")}


def _mistake(name: str):
    """A mistake in terms of the whole bias and of what is seen: `wrong(q, k, v, bias, seen, options)`."""

    def register(wrong):
        def function(q, k, v, bias=None, slopes=None, blocks=None, documents=None, **options):
            n, m = q.shape[2], k.shape[2]
            seen = visible(n, m, **_place_options(options), device=q.device)
            seen = seen if blocks is None else seen & by_blocks(blocks, n, m, options["block"])
            seen = seen if documents is None else seen & same_document(documents, n)
            given = {"blocks": blocks, "documents": documents, "slopes": slopes, "bias": bias}
            return wrong(q, k, v, with_distance(bias, slopes, n, m), seen, {**options, **given})

        attention.mistake(name)(function)

    return register


def _with_mask(name: str, change) -> None:
    """A mistake of visibility: `change(seen, query, key, options)` is the wrong mask."""

    @_mistake(name)
    def _(q, k, v, bias, seen, options):
        return attend(q, k, v, bias, change(seen, *places(q.shape[2], k.shape[2]), options))


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
_with_mask(
    "a tile of 64 queries begins with the first key of its last one's window",
    lambda seen, q, k, o: (
        seen & (k // 64 >= ((q - q.min()) // 64 * 64 + 63 + q.min()).clamp(max=q.max()).sub(o["window"] - 1).clamp(min=0) // 64)
        if o["visibility"] == "sliding_window"
        else seen
    ),
)
_with_mask(
    "the prefix ends with the first tile of 64 keys",
    lambda seen, q, k, o: seen & ((k <= q) | (k < 64)) if o["visibility"] == "prefix" else seen,
)
_with_mask(
    "the sinks are left out where the window is beyond the first tile of 64 keys",
    lambda seen, q, k, o: seen & ((q - k < o["window"]) | (q - o["window"] < 64)) if o["visibility"] == "lambda" else seen,
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


_with_mask(
    "the sinks are left out",
    lambda seen, q, k, o: seen & (q - k < o["window"]) if o["visibility"] == "lambda" else seen,
)
_with_mask(
    "one sink too few is kept",
    lambda seen, q, k, o: seen & ((q - k < o["window"]) | (k < o["sinks"] - 1)) if o["visibility"] == "lambda" else seen,
)
_with_mask(
    "the sinks take their places from the window",
    lambda seen, q, k, o: seen & ((q - k < o["window"] - o["sinks"]) | (k < o["sinks"])) if o["visibility"] == "lambda" else seen,
)
_with_mask(
    "a window of Lambda shows w + 1 keys", lambda seen, q, k, o: seen | ((o["visibility"] == "lambda") & (q - k == o["window"]))
)


_with_mask(
    "a single query has no window",
    lambda seen, q, k, o: k <= q if o["visibility"] == "sliding_window" and len(q) == 1 else seen,
)
_with_mask(
    "the diagonal tile of 16 is seen whole where all tiles are",
    lambda seen, q, k, o: (
        seen | (k // 16 == q // 16) if o["visibility"] == "causal" and not (len(q) % 16 or k.numel() % 16) else seen
    ),
)
_with_mask(
    "a last key alone in its tile of 64 is not read",
    lambda seen, q, k, o: seen & ((k < k.max()) | (k.numel() % 64 != 1) | (k.numel() == 1)),
)
_with_mask(
    "a last query alone in its tile of 64 sees no key",
    lambda seen, q, k, o: seen & ((q < q.max()) | (len(q) % 64 != 1) | (len(q) == 1)),
)
_with_mask(
    "the last split of 64 keys of a single query is left out where it is whole",
    lambda seen, q, k, o: seen & ((k < k.numel() - 64) | (k.numel() % 64 != 0) | (len(q) > 1)),
)
_with_mask(
    "a window that is a whole tile of 64 shows one key less",
    lambda seen, q, k, o: seen & (q - k < 63) if o["visibility"] == "sliding_window" and o["window"] % 64 == 0 else seen,
)
_with_mask(
    "a prefix that is a whole tile of 64 is one key short",
    lambda seen, q, k, o: (
        seen & ((k <= q) | (k < o["prefix"] - 1)) if o["visibility"] == "prefix" and o["prefix"] % 64 == 0 else seen
    ),
)


def _blocks_or(seen: Tensor, q: Tensor, o: dict, change) -> Tensor:
    """What is seen when the blocks are taken by `change(blocks, n, m, block)`."""
    if o["blocks"] is None:
        return seen
    n, m = q.shape[0], seen.shape[-1]
    return visible(n, m, **_place_options(o)) & change(o["blocks"], n, m, o["block"])


_with_mask(
    "blocks are ignored", lambda seen, q, k, o: _blocks_or(seen, q, o, lambda blocks, n, m, block: blocks.new_ones(1, n, m) > 0)
)
_with_mask(
    "all heads take the blocks of the first",
    lambda seen, q, k, o: _blocks_or(seen, q, o, lambda blocks, *rest: by_blocks(blocks[:1], *rest)),
)
_with_mask(
    "blocks of rows are counted from the first key",
    lambda seen, q, k, o: _blocks_or(
        seen,
        q,
        o,
        lambda blocks, n, m, block: (
            by_blocks(blocks.repeat(1, m, 1), n + m, m, block)[:, m - n : m] if n < m else by_blocks(blocks, n, m, block)
        ),
    ),
)
_with_mask(
    "blocks are one key late",
    lambda seen, q, k, o: _blocks_or(seen, q, o, lambda blocks, n, m, block: by_blocks(blocks, n, m, block).roll(1, -1)),
)
_with_mask(
    "the last, partial, block of keys is hidden",
    lambda seen, q, k, o: _blocks_or(
        seen, q, o, lambda blocks, n, m, block: by_blocks(blocks, n, m, block) & (k < m // block * block)
    ),
)


_with_mask(
    "a single query sees all blocks",
    lambda seen, q, k, o: (
        _blocks_or(seen, q, o, lambda blocks, n, m, block: blocks.new_ones(1, n, m) > 0) if len(q) == 1 else seen
    ),
)


def _documents_or(seen: Tensor, o: dict, change) -> Tensor:
    return seen if o["documents"] is None else change(o["documents"][:, None, None, :])


_with_mask(
    "packed documents see each other",
    lambda seen, q, k, o: seen if o["documents"] is None else visible(q.shape[0], k.shape[1], **_place_options(o)),
)
_with_mask(
    "the last key of the document before is seen",
    lambda seen, q, k, o: (
        seen
        if o["documents"] is None
        else seen | ((seen.roll(-1, -1) & ~seen & (k < q)) if o["visibility"] != "full" else seen.roll(-1, -1))
    ),
)
_with_mask(
    "the first key of each document is hidden",
    lambda seen, q, k, o: seen if o["documents"] is None else seen & (seen.roll(1, -1) & (k > 0)),
)
_with_mask(
    "the boundaries are those of the first of the batch", lambda seen, q, k, o: seen if o["documents"] is None else seen[:1]
)


_with_mask(
    "a single query sees all documents",
    lambda seen, q, k, o: visible(*seen.shape[-2:], **_place_options(o)) if o["documents"] is not None and len(q) == 1 else seen,
)


@_mistake("a single query has no ALiBi")
def _(q, k, v, bias, seen, options):
    return attend(q, k, v, bias if q.shape[2] > 1 else options["bias"], seen)


@_mistake("heads beyond the eighth have the bias of those before")
def _(q, k, v, bias, seen, options):
    return attend(q, k, v, None if bias is None else bias[torch.arange(len(bias)) % 8], seen)


@_mistake("rows beyond the fourth read the keys of the first")
def _(q, k, v, bias, seen, options):
    return attend(q, k[torch.arange(len(k)) * (torch.arange(len(k)) < 4)], v, bias, seen)


@_mistake("the last feature of an odd width is left out")
def _(q, k, v, bias, seen, options):
    d = q.shape[-1]
    return attend(q * ((torch.arange(d) < d - 1) | (d % 2 == 0)), k, v, bias, seen)


@_mistake("ALiBi favours what is far")
def _(q, k, v, bias, seen, options):
    return attend(q, k, v, bias if options["slopes"] is None else -bias, seen)


@_mistake("the distance of ALiBi is scaled with the scores")
def _(q, k, v, bias, seen, options):
    return attend(q, k, v, bias if options["slopes"] is None else bias * q.shape[-1] ** -0.5, seen)


@_mistake("the slopes of ALiBi are dealt to the heads in reverse")
def _(q, k, v, bias, seen, options):
    return attend(q, k, v, bias if options["slopes"] is None else bias.flip(0), seen)


@_mistake("the distance of ALiBi is signed")
def _(q, k, v, bias, seen, options):
    if options["slopes"] is not None:
        query, key = places(q.shape[2], k.shape[2])
        bias = options["slopes"][:, None, None] * (key - query)
    return attend(q, k, v, bias, seen)


@_mistake("the distance of ALiBi is counted from the first query")
def _(q, k, v, bias, seen, options):
    if options["slopes"] is not None:
        query, key = places(q.shape[2], k.shape[2])
        bias = -options["slopes"][:, None, None] * (query - query.min() - key).abs()
    return attend(q, k, v, bias, seen)


@_mistake("a query that sees no key gives the mean of the values")
def _(q, k, v, bias, seen, options):
    return attend(q, k, v, bias, seen | ~seen.any(-1, keepdim=True))


@_mistake("a query that sees no key gives NaN")
def _(q, k, v, bias, seen, options):
    return torch.where(seen.any(-1, keepdim=True), attend(q, k, v, bias, seen), torch.nan)


@_mistake("scores are scaled by (d + 1)^-1/2")
def _(q, k, v, bias, seen, options):
    return attend(q, k, v, bias, seen, scale=(q.shape[-1] + 1) ** -0.5)


@_mistake("scores are not scaled")
def _(q, k, v, bias, seen, options):
    return attend(q, k, v, bias, seen, scale=1.0)


@_mistake("query heads are dealt to key heads in turn")
def _(q, k, v, bias, seen, options):
    group = q.shape[1] // k.shape[1]
    return attend(q, k.repeat(1, group, 1, 1), v.repeat(1, group, 1, 1), bias, seen)


@_mistake("the bias is scaled with the scores")
def _(q, k, v, bias, seen, options):
    bias = None if bias is None else bias * q.shape[-1] ** -0.5
    return attend(q, k, v, bias, seen)


@_mistake("keys of zeros are taken for padding")
def _(q, k, v, bias, seen, options):
    heard = (k != 0).any(-1).repeat_interleave(q.shape[1] // k.shape[1], dim=1)
    return attend(q, k, v, bias, seen & heard[:, :, None])


@_mistake("a bias of zero hides")
def _(q, k, v, bias, seen, options):
    return attend(q, k, v, bias, seen if options["bias"] is None else seen & (options["bias"] != 0))


@_mistake("the bias begins again with each tile of 64 keys")
def _(q, k, v, bias, seen, options):
    return attend(q, k, v, None if bias is None else bias[..., torch.arange(bias.shape[-1]) % 64], seen)


@_mistake("all rows of the batch read the keys of the first beyond the first tile of 64")
def _(q, k, v, bias, seen, options):
    near = (torch.arange(k.shape[2]) < 64)[:, None]
    return attend(q, torch.where(near, k, k[:1]), v, bias, seen)


@_mistake("a tile of 64 queries that sees no key gives the mean of the values")
def _(q, k, v, bias, seen, options):
    tile = torch.arange(q.shape[2]) // 64
    empty = torch.stack([~seen[..., tile == tile_n, :].any((-2, -1)) for tile_n in tile], -1)
    return attend(q, k, v, bias, seen | empty[..., None])


@_mistake("the bias is dropped")
def _(q, k, v, bias, seen, options):
    return attend(q, k, v, None, seen)


@_mistake("the maximum is not subtracted")
def _(q, k, v, bias, seen, options):
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    score = q @ k.mT * q.shape[-1] ** -0.5 + (0 if bias is None else bias)
    weight = torch.exp(score.float()).double() * seen
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


@_mistake("the accumulator is not rescaled when the maximum rises")
def _(q, k, v, bias, seen, options):
    return _in_tiles(q, k, v, bias, seen, lambda factor, number: (1.0, factor))


@_mistake("the sum of weights is not rescaled when the maximum rises")
def _(q, k, v, bias, seen, options):
    return _in_tiles(q, k, v, bias, seen, lambda factor, number: (factor, 1.0))


@_mistake("the accumulator is rescaled one tile late")
def _(q, k, v, bias, seen, options):
    return _in_tiles(q, k, v, bias, seen, lambda factor, number: (factor if number > 1 else 1.0, factor))


@_mistake("the accumulator of the first tile is overwritten")
def _(q, k, v, bias, seen, options):
    return _in_tiles(q, k, v, bias, seen, lambda factor, number: (factor * (number != 1), factor))


@_mistake("a bias of -inf hides nothing")
def _(q, k, v, bias, seen, options):
    return attend(q, k, v, None if bias is None else bias.masked_fill(bias == -torch.inf, 0.0), seen)


@_mistake("a first tile that a bias of -inf hides whole gives no number")
def _(q, k, v, bias, seen, options):
    out, given = attend(q, k, v, bias, seen), options["bias"]
    if given is None or k.shape[2] <= 64:
        return out
    return torch.where((given[..., :64] == -torch.inf).all(-1, keepdim=True), torch.nan, out)


@_mistake("weights are rounded to four bits")
def _(q, k, v, bias, seen, options):
    m = k.shape[2]
    identity = torch.eye(m, dtype=q.dtype).expand(k.shape[0], k.shape[1], m, m)
    weight = attend(q, k, identity, bias, seen)
    coarse = weight + ((15 * weight).round() / 15 - weight).detach()
    return coarse @ v.repeat_interleave(q.shape[1] // k.shape[1], dim=1)


@_mistake("backward forgets the bias")
def _(q, k, v, bias, seen, options):
    no_bias = None if bias is None else bias * 0
    return backward_of(attend(q, k, v, bias, seen), attend(q, k, v, no_bias, seen))


@_mistake("backward takes dK of one head for that of its group")
def _(q, k, v, bias, seen, options):
    group = q.shape[1] // k.shape[1]
    alone = torch.arange(q.shape[1])[:, None, None] % group == 0
    each = k.repeat_interleave(group, dim=1)
    return attend(q, torch.where(alone, each, each.detach()), v.repeat_interleave(group, dim=1), bias, seen)


@_mistake("backward forgets the scale in dQ")
def _(q, k, v, bias, seen, options):
    longer = q.detach() + (q - q.detach()) * q.shape[-1] ** 0.5
    return attend(longer, k, v, bias, seen)


@_mistake("backward leaves out the row sum of dO * O")
def _(q, k, v, bias, seen, options):
    group = q.shape[1] // k.shape[1]
    kk, vv = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    score = (q @ kk.mT * q.shape[-1] ** -0.5 + (0 if bias is None else bias)).masked_fill(~seen, -torch.inf)
    top = score.amax(-1, keepdim=True).detach()
    weight = torch.exp(score - torch.where(top.isfinite(), top, 0.0))
    total = weight.sum(-1, keepdim=True).detach()
    return weight @ vv / torch.where(total > 0, total, 1.0)


@_mistake("backward leaves the last row of dV at zero")
def _(q, k, v, bias, seen, options):
    last = (torch.arange(v.shape[2]) == v.shape[2] - 1)[:, None]
    return attend(q, k, torch.where(last, v.detach(), v), bias, seen)


@_mistake("gradients are one per cent too large")
def _(q, k, v, bias, seen, options):
    out = attend(q, k, v, bias, seen)
    return out.detach() + 1.01 * (out - out.detach())
