"""Extrapolatable position embedding, xPos (Sun et al. 2022, arXiv:2212.10554, section 3 and algorithm 1): its scores.

Both are rotated as in `rotary`; pair i of a query at position p is multiplied by zeta_i^(p/base), of a key by zeta_i^(-p/base),
so that scores decay with distance: zeta_i = (2i/d + 0.4) / 1.4 for i = 0 ... d/2 - 1.

Where papers and libraries disagree, this side is taken:
- The component is the product, not its factors: torchscale centres positions on the middle of the sequence,
  rotary-embedding-torch on half the number of positions, the paper nowhere. The products are the same; here the middle of the
  queries keeps factors near 1.
- Pairs are adjacent (2i, 2i + 1), and so are the two copies of zeta_i, as in the paper, torchscale and rotary-embedding-torch.
- Nothing is masked. Keys that lie ahead of a query grow instead of decaying; a model shows only the past.
- Scores are not scaled by d^-1/2. The rotation has base 10000, as everywhere; `scale_base` is 512 in all published code.
- Angles are exact; an implementation may make them of float32 positions and frequencies, and be as far off as in `rotary`.
- RetNet's "xPos" rotates only: its decay takes the place of zeta.
"""

import torch
from torch import Tensor

from harness.spec import Bunch, Case, spec
from harness.specs.rotary import angles, rotate


@spec(
    "q[b h n d], k[b h m d], query[n]:int<far, key[m]:int<far -> score[b h n m]",
    b=2,
    h=3,
    n=13,
    m=29,
    d=8,
    far=64,
    cases={
        "plain": {},
        "one_query": {"n": 1},
        "one_key": {"m": 1},
        "one_of_each": {"b": 1, "n": 1, "m": 1},
        "beyond_tiles": {"n": 17, "m": 65, "b": 1, "h": 2},  # a last query and a last key alone in their tiles
        "many_queries": {"n": 150, "m": 150, "b": 1, "h": 1},  # what is done for the first tiles alone
        "whole_tiles": {"n": 16, "m": 128, "b": 1, "h": 2},  # no ragged tile
        "wide": {"d": 192},  # more than a tile
        "many_rows": {"b": 70, "h": 1, "n": 2, "m": 3, "d": 4},
        "many_heads": {"b": 1, "h": 70, "n": 2, "m": 3, "d": 4},
        "narrow": {"d": 2},
        # Factors over the whole range of a small dtype, angles in a small dtype, positions on both sides of 2^15.
        "far": {"far": 33_500},
        "million": {"far": 1_049_000},  # a table of any trained length, a middle of float16, positions on both sides of 2^20
        "short_base": {"scale_base": 31.5},  # a base that is built in, or taken for a whole number
    },
)
def xpos(q: Tensor, k: Tensor, query: Tensor, key: Tensor, *, scale_base: float = 512.0) -> Tensor:
    return scores(q, k, query, key, *scales(query, key, shrinking(q.shape[-1], q.device), scale_base))


def shrinking(d: int, device: torch.device | None = None, gamma: float = 0.4) -> Tensor:
    """zeta [d/2], rising from gamma / (1 + gamma) towards 1."""
    return (torch.arange(0, d, 2, dtype=torch.float64, device=device) / d + gamma) / (1 + gamma)


def scales(query: Tensor, key: Tensor, zeta: Tensor, scale_base: float) -> tuple[Tensor, Tensor]:
    """What each pair of features is multiplied by: [n d/2] of queries, [m d/2] of keys."""
    middle = (query.min() + query.max()) // 2
    of_q, of_k = (query - middle).double() / scale_base, (middle - key).double() / scale_base
    return zeta ** of_q[:, None], zeta ** of_k[:, None]


def scores(q: Tensor, k: Tensor, query: Tensor, key: Tensor, q_scale: Tensor, k_scale: Tensor) -> Tensor:
    """Products [b h n m] of rotated queries and keys, each pair of features times its scale, [n d/2] and [m d/2]."""
    q = rotate(q, angles(query, q.shape[-1])) * q_scale.repeat_interleave(2, -1)
    k = rotate(k, angles(key, k.shape[-1])) * k_scale.repeat_interleave(2, -1)
    return q @ k.mT


_CANCELS = "the scales of a query and a key have the middle with opposite signs, so that it leaves their product"
_TWO_AXES = "scales have two axes: the last is axis 1"
EQUIVALENT = {
    "scales: query.min() + query.max() -> query.max() + query.max()": _CANCELS,
    "scales: query.min() + query.max() -> query.min() + query.min()": _CANCELS,
    "scores: q_scale.repeat_interleave(2, -1) -> q_scale.repeat_interleave(2, 1)": _TWO_AXES,
    "scores: k_scale.repeat_interleave(2, -1) -> k_scale.repeat_interleave(2, 1)": _TWO_AXES,
}

# Further apart than this many scale bases (factors of up to 0.2857^-4 = 150), scores leave the range of a small dtype.
APART = 4


@xpos.work(along=("n", "m", "far"), b=1, h=4, d=64)
def _(case: Case) -> float:
    """A product of every query with every key."""
    return 2 * case.b * case.h * case.n * case.m * case.d


@xpos.family
def normal(x: Bunch, case: Case, rng: torch.Generator):
    """Positions end at `far`, and reach no further back than a small dtype can hold the scores of."""
    reach = min(case.far, int(APART * case.scale_base))
    return {name: case.far - reach + x[name] % reach for name in ("query", "key")}


@xpos.family
def past(x: Bunch, case: Case, rng: torch.Generator):
    """As a decoder has it: every key lies before every query, so every score decays; some are one step apart, some far."""
    half = min(case.far, int(APART * case.scale_base)) // 2
    key = case.far - 2 * half + torch.randint(half, (case.m,), generator=rng)
    query = case.far - half + torch.randint(half, (case.n,), generator=rng)
    return {"key": key, "query": query}


@xpos.family
def one_pair(x: Bunch, case: Case, rng: torch.Generator):
    """Only the first pair of features, which decays fastest, has anything in it."""
    first = torch.arange(case.d) < 2
    return {"q": x.q * first, "k": x.k * first}


# At a million float64 itself loses 1e-10 of a radian.
@xpos.law(when=lambda case: case.far < 100_000)
def only_the_distance_counts(run, x: Bunch, rng):
    query, key = x.query // 2, x.key // 2
    shift = torch.maximum(query.max(), key.max())
    return run(x, query=query, key=key).score, run(x, query=query + shift, key=key + shift).score


@xpos.law
def at_the_same_place_nothing_turns_or_shrinks(run, x: Bunch, rng):
    query, key = torch.full_like(x.query, x.query[0]), torch.full_like(x.key, x.query[0])
    return run(x, query=query, key=key).score, x.q.double() @ x.k.double().mT


@xpos.law
def a_batch_is_its_rows(run, x: Bunch, rng):
    row = rng.randrange(x.q.shape[0])
    return run(x).score[row : row + 1], run(x, q=x.q[row : row + 1], k=x.k[row : row + 1]).score


@xpos.law
def permuting_keys_permutes_the_scores(run, x: Bunch, rng):
    order = rng.sample(range(x.k.shape[2]), x.k.shape[2])
    return run(x, k=x.k[:, :, order], key=x.key[order]).score, run(x).score[..., order]


@xpos.mistake("nothing shrinks: plain rotary embedding")
def _(q, k, query, key, *, scale_base):
    return scores(q, k, query, key, torch.ones_like(q[0, 0, :, ::2]), torch.ones_like(k[0, 0, :, ::2]))


@xpos.mistake("keys shrink like queries")
def _(q, k, query, key, *, scale_base):
    of_q, of_k = scales(query, key, shrinking(q.shape[-1]), scale_base)
    return scores(q, k, query, key, of_q, 1 / of_k)


@xpos.mistake("queries and keys are exchanged: scores grow with distance")
def _(q, k, query, key, *, scale_base):
    of_q, of_k = scales(query, key, shrinking(q.shape[-1]), scale_base)
    return scores(q, k, query, key, 1 / of_q, 1 / of_k)


@xpos.mistake("only queries shrink")
def _(q, k, query, key, *, scale_base):
    of_q, of_k = scales(query, key, shrinking(q.shape[-1]), scale_base)
    return scores(q, k, query, key, of_q, torch.ones_like(of_k))


@xpos.mistake("queries and keys have middles of their own")
def _(q, k, query, key, *, scale_base):
    of_q, _ = scales(query, query, shrinking(q.shape[-1]), scale_base)
    _, of_k = scales(key, key, shrinking(k.shape[-1]), scale_base)
    return scores(q, k, query, key, of_q, of_k)


@xpos.mistake("the scale base is built in")
def _(q, k, query, key, *, scale_base):
    return xpos(q, k, query, key)


@xpos.mistake("the scale base is cut to a whole number")
def _(q, k, query, key, *, scale_base):
    return xpos(q, k, query, key, scale_base=float(int(scale_base)))


@xpos.mistake("positions are not divided by the scale base")
def _(q, k, query, key, *, scale_base):
    of_q, of_k = scales(query, key, shrinking(q.shape[-1]), 1.0)
    return scores(q, k, query, key, of_q.clamp(1e-4, 1e4), of_k.clamp(1e-4, 1e4))


@xpos.mistake("gamma is left out")
def _(q, k, query, key, *, scale_base):
    of_q, of_k = scales(query, key, shrinking(q.shape[-1], gamma=0.0).clamp(min=1e-4), scale_base)
    return scores(q, k, query, key, of_q, of_k)


@xpos.mistake("zeta counts pairs from one")
def _(q, k, query, key, *, scale_base):
    d = q.shape[-1]
    zeta = (torch.arange(2, d + 2, 2, dtype=torch.float64) / d + 0.4) / 1.4
    return scores(q, k, query, key, *scales(query, key, zeta, scale_base))


@xpos.mistake("zeta ends at one: both ends of its range are included")
def _(q, k, query, key, *, scale_base):
    zeta = torch.linspace(0.4 / 1.4, 1, q.shape[-1] // 2, dtype=torch.float64)
    zeta = zeta if len(zeta) > 1 else shrinking(q.shape[-1])
    return scores(q, k, query, key, *scales(query, key, zeta, scale_base))


@xpos.mistake("zeta is laid out in halves")
def _(q, k, query, key, *, scale_base):
    halves = [power.repeat(1, 2) for power in scales(query, key, shrinking(q.shape[-1]), scale_base)]
    q, k = rotate(q, angles(query, q.shape[-1])) * halves[0], rotate(k, angles(key, k.shape[-1])) * halves[1]
    return q @ k.mT


@xpos.mistake("rows beyond the 64th are not read")
def _(q, k, query, key, *, scale_base):
    return xpos(q * (torch.arange(len(q)) < 64)[:, None, None, None], k, query, key, scale_base=scale_base)


@xpos.mistake("heads beyond the 64th are not read")
def _(q, k, query, key, *, scale_base):
    return xpos(q * (torch.arange(q.shape[1]) < 64)[:, None, None], k, query, key, scale_base=scale_base)


@xpos.mistake("the last tile of 16 keys is dropped where it is whole")
def _(q, k, query, key, *, scale_base):
    m = k.shape[2]
    read = (torch.arange(m) < m - 16) | (m % 16 != 0)
    return xpos(q, k * read[:, None], query, key, scale_base=scale_base)


@xpos.mistake("keys are not rotated")
def _(q, k, query, key, *, scale_base):
    return scores(q, k, query, 0 * key, *scales(query, key, shrinking(q.shape[-1]), scale_base))


@xpos.mistake("rows are numbered instead of reading their positions")
def _(q, k, query, key, *, scale_base):
    return xpos(q, k, torch.arange(len(query)), torch.arange(len(key)), scale_base=scale_base)


@xpos.mistake("angles are rounded to bfloat16")
def _(q, k, query, key, *, scale_base):
    of_q, of_k = (power.repeat_interleave(2, -1) for power in scales(query, key, shrinking(q.shape[-1]), scale_base))
    turn = [angles(position, q.shape[-1]).to(torch.bfloat16).double() for position in (query, key)]
    return (rotate(q, turn[0]) * of_q) @ (rotate(k, turn[1]) * of_k).mT


@xpos.mistake("backward takes the scale of the keys for that of the queries")
def _(q, k, query, key, *, scale_base):
    of_q, of_k = scales(query, key, shrinking(q.shape[-1]), scale_base)
    wrong = scores(q, k.detach(), query, key, 1 / of_q, of_k)
    return scores(q.detach(), k, query, key, of_q, of_k) + wrong - wrong.detach()


@xpos.mistake("positions are rounded to bfloat16")
def _(q, k, query, key, *, scale_base):
    return xpos(q, k, *(position.to(torch.bfloat16).long() for position in (query, key)), scale_base=scale_base)


@xpos.mistake("positions above 65504 overflow float16, and are held at it")
def _(q, k, query, key, *, scale_base):
    return xpos(q, k, query.clamp(max=65504), key.clamp(max=65504), scale_base=scale_base)


@xpos.mistake("positions wrap around in 16 bits")
def _(q, k, query, key, *, scale_base):
    return xpos(q, k, *(position.to(torch.int16).long() for position in (query, key)), scale_base=scale_base)


@xpos.mistake("positions wrap around in 16 bits without a sign")
def _(q, k, query, key, *, scale_base):
    return xpos(q, k, query % 65536, key % 65536, scale_base=scale_base)


@xpos.mistake("angles beyond a table of 131072 rows are those of its last row")
def _(q, k, query, key, *, scale_base):
    of_q, of_k = scales(query, key, shrinking(q.shape[-1]), scale_base)
    return scores(q, k, query.clamp(max=131071), key.clamp(max=131071), of_q, of_k)


@xpos.mistake("a last key alone in its tile of 16 is not read")
def _(q, k, query, key, *, scale_base):
    m = k.shape[2]
    return xpos(q, k * ((torch.arange(m) < m - 1) | (m % 16 != 1) | (m == 1))[:, None], query, key, scale_base=scale_base)


@xpos.mistake("a single query and a single key do not turn")
def _(q, k, query, key, *, scale_base):
    alone = q.shape[2] == k.shape[2] == 1
    return q @ k.mT if alone else xpos(q, k, query, key, scale_base=scale_base)
