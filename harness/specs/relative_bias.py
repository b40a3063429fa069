"""T5's relative position bias (Raffel et al. 2020, arXiv:1910.10683, section 2.1): a learned number per head and distance bucket.

The bucket of key j for query i, with `distance` 128 and n = i - j, as in Mesh TensorFlow and transformers:
    in both directions   the upper half of the buckets is for keys ahead (n < 0); then n = |n|
    causal               keys ahead are in bucket 0, with n = 0
    n < exact            bucket n, where exact is half the number of buckets of a direction
    otherwise            exact + floor(log(n / exact) / log(distance / exact) * (number - exact)), at most the last

Where papers and libraries disagree, this side is taken:
- The floor is that of the true logarithm, found in whole numbers. Code that takes it in float32 may be one bucket off where n is
  exactly an edge; with the buckets and distances of the cases here transformers' float32 agrees everywhere.
- The bias is added as it is; x-transformers multiplies it by a `scale`.
- A key ahead has a positive relative position j - i, as in T5.
"""

import math

import torch
from torch import Tensor

from harness.spec import Bunch, Case, spec


@spec(
    "weight[buckets h], query[n]:int<far, key[m]:int<far -> bias[h n m]",
    h=3,
    n=37,
    m=53,
    buckets=32,
    far=300,
    cases={
        "plain": {},
        "causal": {"bidirectional": False},
        "one_query": {"n": 1, "bidirectional": False},
        "one_key": {"m": 1, "h": 1},  # a single head
        "whole_tiles": {"n": 64, "m": 32, "h": 8},  # no ragged tile; fewer keys than queries
        "many_queries": {"n": 150, "m": 150},  # what is done for the first tiles of queries, or of keys, alone
        "near": {"far": 24},  # no bucket is shared, but two
        "near_causal": {"far": 24, "bidirectional": False},
        "few_buckets": {"buckets": 8, "distance": 20},  # a number of buckets, or a distance, that is built in
        "few_buckets_causal": {"buckets": 8, "distance": 20, "bidirectional": False},
        "steep_causal": {"buckets": 8, "distance": 6, "bidirectional": False},  # the last edge is the distance itself
        "odd_buckets_causal": {"buckets": 7, "distance": 20, "bidirectional": False},  # the exact ones are not half of them
        "many_buckets": {"buckets": 72, "distance": 200, "h": 20, "n": 19},  # what is done for 32 buckets, or for the first heads
        "far": {"far": 4096},  # consecutive integers above 256 are equal in bfloat16
        "very_far": {"far": 131072, "n": 11, "m": 19},  # positions in 16 bits
    },
)
def relative_bias(weight: Tensor, query: Tensor, key: Tensor, *, bidirectional: bool = True, distance: int = 128) -> Tensor:
    return look_up(weight, bucket(query[:, None] - key[None, :], len(weight), bidirectional, distance))


def bucket(n: Tensor, buckets: int, bidirectional: bool, distance: int) -> Tensor:
    """The bucket of each query position minus key position `n`."""
    if bidirectional:
        buckets = buckets // 2
        return torch.where(n < 0, buckets, 0) + of_distance(n.abs(), buckets, distance)
    return of_distance(n.clamp(min=0), buckets, distance)


def of_distance(n: Tensor, buckets: int, distance: int) -> Tensor:
    """The bucket of each distance `n` among those of one direction."""
    beyond = torch.tensor(edges(buckets, distance), device=n.device)
    return n.clamp(max=buckets // 2) + (n[..., None] >= beyond).sum(-1)


def edges(buckets: int, distance: int) -> list[int]:
    """The least distance in each bucket after the first that is not exact: (n / exact)^rest >= (distance / exact)^step."""
    exact = buckets // 2
    rest = buckets - exact

    def least(step: int) -> int:
        return next(n for n in range(exact, distance + 1) if n**rest * exact**step >= distance**step * exact**rest)

    return [least(step) for step in range(1, rest)]


def look_up(weight: Tensor, number: Tensor) -> Tensor:
    """The weights [h n m] of buckets `number` [n m]."""
    return weight[number].permute(2, 0, 1)


EQUIVALENT = {
    "edges: distance + 1 -> distance + 2": "the search ends at n = distance at the latest, as step < rest",
}


@relative_bias.work(along=("n", "m", "far"), h=8)
def _(case: Case) -> float:
    return case.n * case.m


@relative_bias.family
def near_edges(x: Bunch, case: Case, rng: torch.Generator):
    """Queries stand where the first key is as far away as an edge of the buckets, or one step less."""
    one_way = case.buckets // 2 if case.bidirectional else case.buckets
    at = [0, *(place for edge in edges(one_way, case.distance) for place in (edge - 1, edge)), case.distance - 1, case.distance]
    at = [min(place, case.far - 1) for place in at]
    chosen = torch.randint(len(at), (case.n,), generator=rng)
    key = torch.where(torch.arange(case.m) == 0, 0, x.key)
    return {"query": torch.tensor(at)[chosen], "key": key}


@relative_bias.family
def late(x: Bunch, case: Case, rng: torch.Generator):
    """Queries and keys near each other, far from the start."""
    return {"query": case.far - 1 - x.query % 150 % case.far, "key": case.far - 1 - x.key % 150 % case.far}


@relative_bias.law
def only_the_distance_counts(run, x: Bunch, rng):
    query, key = x.query // 2, x.key // 2
    shift = torch.maximum(query.max(), key.max())
    return run(x, query=query, key=key).bias, run(x, query=query + shift, key=key + shift).bias


@relative_bias.law(when=lambda case: case.distance <= 128 and case.far >= 256)
def far_away_is_all_the_same(run, x: Bunch, rng):
    somewhere, elsewhere = 128 + x.query % 128, torch.full_like(x.query, 255)
    return run(x, query=somewhere, key=0 * x.key).bias, run(x, query=elsewhere, key=0 * x.key).bias


@relative_bias.law(when=lambda case: not case.bidirectional)
def all_keys_ahead_share_the_first_bucket(run, x: Bunch, rng):
    first = x.weight[0][:, None, None]
    ahead = run(x, query=0 * x.query).bias
    return ahead, first.expand_as(ahead)


@relative_bias.law
def heads_are_columns(run, x: Bunch, rng):
    order = rng.sample(range(x.weight.shape[1]), x.weight.shape[1])
    return run(x, weight=x.weight[:, order]).bias, run(x).bias[order]


def _with_bucket(name: str, change) -> None:
    """A mistake of buckets: `change(n, buckets, bidirectional, distance)` is the wrong bucket of a query minus key position."""

    def wrong(weight, query, key, *, bidirectional, distance):
        number = change(query[:, None] - key[None, :], len(weight), bidirectional, distance)
        return look_up(weight, number.clamp(0, len(weight) - 1))

    relative_bias.mistake(name)(wrong)


def _either(change):
    """A change of the buckets of one direction, `change(n, buckets, distance)`, made in each."""

    def of_both(n: Tensor, buckets: int, bidirectional: bool, distance: int) -> Tensor:
        if not bidirectional:
            return change(n.clamp(min=0), buckets, distance)
        return torch.where(n < 0, buckets // 2, 0) + change(n.abs(), buckets // 2, distance)

    return of_both


def _by_logarithm(n: Tensor, buckets: int, distance: int, exact: int, whole=torch.floor) -> Tensor:
    """Buckets of distances by the formula, with the number of exact ones and the way to whole numbers left open."""
    ratio = torch.log(n.double().clamp(min=1) / exact) / math.log(distance / exact)
    return torch.where(n < exact, n, (exact + whole(ratio * (buckets - exact) + 1e-9).long()).clamp(max=buckets - 1))


_with_bucket("the sign of the relative position is turned", lambda n, k, both, far: bucket(-n, k, both, far))
_with_bucket("both directions are used in a causal model", lambda n, k, both, far: bucket(n, k, True, far))
_with_bucket("keys ahead are in the first bucket in both directions", lambda n, k, both, far: bucket(n, k, False, far))
_with_bucket(
    "keys ahead count by their distance in a causal model",
    lambda n, k, both, far: bucket(n if both else n.abs(), k, both, far),
)
_with_bucket(
    "keys ahead are in the lower half",
    lambda n, k, both, far: (bucket(n, k, both, far) + k // 2 * both) % k,
)
_with_bucket("the distance is built in", lambda n, k, both, far: bucket(n, k, both, 128))
_with_bucket("the number of buckets is built in", lambda n, k, both, far: bucket(n, 32, both, far))
_with_bucket("buckets beyond the 32nd are the last of these", lambda n, k, both, far: bucket(n, k, both, far).clamp(max=31))
_with_bucket("positions wrap around in 16 bits", lambda n, k, both, far: bucket((n + 2**15) % 2**16 - 2**15, k, both, far))
_with_bucket(
    "logarithms are rounded to the nearest",
    _either(lambda n, one, far: _by_logarithm(n, one, far, one // 2, torch.round)),
)
_with_bucket("logarithms are rounded up", _either(lambda n, one, far: _by_logarithm(n, one, far, one // 2, torch.ceil)))
_with_bucket(
    "an edge belongs to the bucket before it",
    _either(lambda n, one, far: of_distance(n - (n > one // 2).long(), one, far)),
)
_with_bucket("one bucket more is exact", _either(lambda n, one, far: _by_logarithm(n, one, far, one // 2 + 1)))
_with_bucket(
    "distances beyond the last bucket begin again",
    lambda n, k, both, far: bucket(n.sign() * (n.abs() % far), k, both, far),
)
_with_bucket("buckets grow evenly, not by logarithms", _either(lambda n, one, far: (n * one // far).clamp(max=one - 1)))


@relative_bias.mistake("heads beyond the eighth read the weights of those before")
def _(weight, query, key, **options):
    return relative_bias(weight[:, torch.arange(weight.shape[1]) % 8], query, key, **options)


@relative_bias.mistake("the buckets that are shared are as many as the exact ones")
def _(weight, query, key, *, bidirectional, distance):
    def bucket_of(n: Tensor, buckets: int, distance: int) -> Tensor:
        exact = buckets // 2
        return _by_logarithm(n, 2 * exact, distance, exact)

    number = _either(bucket_of)(query[:, None] - key[None, :], len(weight), bidirectional, distance)
    return look_up(weight, number)


@relative_bias.mistake("positions are rounded to bfloat16")
def _(weight, query, key, **options):
    return relative_bias(weight, query.to(torch.bfloat16).long(), key.to(torch.bfloat16).long(), **options)


@relative_bias.mistake("rows are numbered instead of reading their positions")
def _(weight, query, key, **options):
    return relative_bias(weight, torch.arange(len(query)), torch.arange(len(key)), **options)


@relative_bias.mistake("the bias is scaled by the root of the number of heads")
def _(weight, query, key, **options):
    return relative_bias(weight, query, key, **options) * weight.shape[1] ** -0.5


@relative_bias.mistake("the table is read transposed")
def _(weight, query, key, **options):
    return relative_bias(weight.T.reshape(weight.shape), query, key, **options)


@relative_bias.mistake("backward counts each bucket once per query")
def _(weight, query, key, **options):
    right = relative_bias(weight, query, key, **options)
    first = torch.arange(len(key)) == 0
    return torch.where(first, right, right.detach())


@relative_bias.mistake("the last tile of 16 queries is left out where it is whole")
def _(weight, query, key, **options):
    n = len(query)
    return relative_bias(weight, query, key, **options) * ((torch.arange(n) < n - 16) | (n % 16 != 0))[:, None]


@relative_bias.mistake("a single head has the table upside down")
def _(weight, query, key, **options):
    return relative_bias(weight if weight.shape[1] > 1 else weight.flip(0), query, key, **options)


@relative_bias.mistake("a single key is at the place of each query")
def _(weight, query, key, **options):
    right = relative_bias(weight, query, key, **options)
    return right if len(key) > 1 else look_up(weight, torch.zeros(len(query), 1, dtype=torch.long))
