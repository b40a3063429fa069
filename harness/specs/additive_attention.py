"""Additive attention (Bahdanau, Cho and Bengio 2014, arXiv:1409.0473, eq. 5-6 and A.1.2) with padded sources.

Where papers and libraries disagree, this side is taken:
- The alignment model is v . tanh(W s + U h), without biases (as printed; Keras has no W and U, others add biases).
- `s` is the decoder's state before the step, s_{i-1}; Luong et al. use the state after it. Here it is simply given, for
  n steps at once.
- Scores are not scaled by a power of the width.
- What is averaged are the annotations h themselves, not their projections U h.
- `last` is the place of the last annotation of each row that is not padding: at least one is left. Padding has no weight.
- Normalisation comes after the product with the annotations; the alignment weights are an output too.
"""

import torch
from torch import Tensor

from harness.spec import Bunch, Case, spec


@spec(
    "s[b n d], h[b m e], last[b]:int<m, query_weight[a d], key_weight[a e], score_weight[a] -> out[b n e], weight[b n m]",
    b=3,
    n=7,
    m=37,
    d=6,
    e=5,
    a=9,
    cases={
        "plain": {},
        "one_query": {"n": 1},
        "one_key": {"m": 1},
        "whole_tiles": {"m": 128, "n": 16, "b": 1, "d": 16, "e": 16, "a": 16},
        "long": {"m": 321, "b": 2, "n": 4},  # a last annotation alone in its tile
        "many_queries": {"n": 193, "m": 5, "b": 2},  # what is done for the first tiles of queries alone; a last one alone in its
        "wide": {"n": 4, "m": 11, "a": 140, "d": 133, "e": 131},
        "many_rows": {"b": 70, "n": 2, "m": 5, "a": 4, "d": 3, "e": 2},
        "narrow": {"a": 1, "d": 1, "e": 1},
    },
)
def additive_attention(
    s: Tensor, h: Tensor, last: Tensor, query_weight: Tensor, key_weight: Tensor, score_weight: Tensor
) -> tuple[Tensor, Tensor]:
    energy = torch.tanh((s @ query_weight.mT)[:, :, None] + (h @ key_weight.mT)[:, None]) @ score_weight
    return align(energy, h, kept(h, last))


def kept(h: Tensor, last: Tensor) -> Tensor:
    """[b 1 m], True where an annotation is not padding."""
    return (torch.arange(h.shape[1], device=h.device) <= last[:, None])[:, None]


def align(energy: Tensor, h: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
    """Mean annotations and weights for scores [b n m]."""
    energy = energy.masked_fill(~seen, -torch.inf)
    weight = torch.exp(energy - energy.amax(-1, keepdim=True).detach())
    total = weight.sum(-1, keepdim=True)
    return (weight @ h) / total, weight / total


def _scaled(x: Bunch, case: Case) -> dict[str, Tensor]:
    """Projections of a size that leaves the tanh half way to its ends."""
    return {"query_weight": x.query_weight * case.d**-0.5, "key_weight": x.key_weight * case.e**-0.5}


EQUIVALENT = {
    "align: energy - energy.amax(-1, keepdim=True).detach() -> energy - energy.amax(-1, keepdim=True)": (
        "the maximum cancels, and so does its gradient"
    ),
}


@additive_attention.work(along=("m",), b=2, n=16, d=64, e=64, a=64)
def _(case: Case) -> float:
    """The projections, a score and a weighted value for each pair; about half of the keys are hidden."""
    projections = 2 * case.b * case.a * (case.n * case.d + case.m * case.e / 2)
    return projections + case.b * case.n * case.m / 2 * (3 * case.a + 2 * case.e)


@additive_attention.family
def normal(x: Bunch, case: Case, rng: torch.Generator):
    return _scaled(x, case)


@additive_attention.family
def large(x: Bunch, case: Case, rng: torch.Generator):
    """A tanh at its ends, and annotations with an offset."""
    return {**_scaled(x, case), "s": 3 * x.s, "h": 4 * x.h + 3}


@additive_attention.family
def sharp(x: Bunch, case: Case, rng: torch.Generator):
    """One annotation wins, by scores beyond what an exponential can hold."""
    return {**_scaled(x, case), "score_weight": 20 * x.score_weight + 100}


@additive_attention.family
def needle(x: Bunch, case: Case, rng: torch.Generator):
    """The weight on annotations at the edges of tiles, and on the last one; no padding."""
    key = torch.arange(case.m)
    heard = (key % 16 == 0) | (key % 16 == 15) | (key == case.m - 1)
    scaled = _scaled(x, case)
    # Along the first unit's direction, which counts most, loud annotations are far on the one side and the others on the other.
    direction = torch.nn.functional.normalize(scaled["key_weight"][0], dim=0)
    along = (torch.where(heard, 4.0, -4.0) - x.h @ direction)[..., None] * direction
    score_weight = torch.cat([8 + 0 * x.score_weight[:1], x.score_weight[1:] / 4])
    return {**scaled, "h": x.h + along, "score_weight": score_weight, "last": torch.full_like(x.last, case.m - 1)}


@additive_attention.family
def silent(x: Bunch, case: Case, rng: torch.Generator):
    """States and annotations of zeros, which are no padding."""
    query, key = torch.arange(case.n)[:, None], torch.arange(case.m)[:, None]
    return {**_scaled(x, case), "s": x.s * (query % 3 != 1), "h": x.h * (key % 3 != 1)}


NAMES = ("s", "h", "last")


@additive_attention.law(when=lambda case: case.m > 1)
def padding_is_invisible(run, x: Bunch, rng):
    padding = torch.arange(x.h.shape[1], device=x.h.device) > x.last[:, None]
    return tuple(run(x).values()), tuple(run(x, h=torch.where(padding[..., None], -9 * x.h.flip(1), x.h)).values())


@additive_attention.law(when=lambda case: case.m > 1)
def padding_of_all_rows_may_be_cut_off(run, x: Bunch, rng):
    m = int(x.last.max()) + 1
    whole, short = run(x), run(x, h=x.h[:, :m])
    return (whole.out, whole.weight[..., :m]), (short.out, short.weight)


@additive_attention.law(when=lambda case: case.m > 1)
def permuting_the_annotations_permutes_the_weights(run, x: Bunch, rng):
    order, last = rng.sample(range(x.h.shape[1]), x.h.shape[1]), torch.full_like(x.last, x.h.shape[1] - 1)
    whole, permuted = run(x, last=last), run(x, last=last, h=x.h[:, order])
    return (whole.out, whole.weight[..., order]), (permuted.out, permuted.weight)


# A sum of hundreds of equal terms drifts one way in float32, a hair beyond its budget: longer cases are not asked.
@additive_attention.law(when=lambda case: case.m <= 200)
def equal_annotations_come_back(run, x: Bunch, rng):
    row = x.h[:, :1]
    return run(x, h=row.expand_as(x.h).contiguous()).out, row.expand(-1, x.s.shape[1], -1)


@additive_attention.law(when=lambda case: case.n > 1)
def queries_need_no_others(run, x: Bunch, rng):
    query = rng.randrange(x.s.shape[1])
    whole, alone = run(x), run(x, s=x.s[:, query : query + 1])
    return (whole.out[:, query : query + 1], whole.weight[:, query : query + 1]), tuple(alone.values())


@additive_attention.law(when=lambda case: case.b > 1)
def a_batch_is_its_rows(run, x: Bunch, rng):
    row = rng.randrange(x.s.shape[0])
    whole, alone = run(x), run(x, **{name: x[name][row : row + 1] for name in NAMES})
    return tuple(whole[name][row : row + 1] for name in whole), tuple(alone.values())


@additive_attention.law
def states_that_drown_the_annotations_weigh_all_alike(run, x: Bunch, rng):
    """A tanh of 200 is 1, for annotations of any kind: e^200 is infinite in float32."""
    d = x.s.shape[2]
    found = run(x, s=torch.ones_like(x.s), query_weight=torch.full_like(x.query_weight, 200 / d)).weight
    seen = (torch.arange(x.h.shape[1], device=x.h.device) <= x.last[:, None])[:, None].expand_as(found)
    return found, seen.to(found.dtype) / seen.sum(-1, keepdim=True)


@additive_attention.law
def permuting_units_changes_nothing(run, x: Bunch, rng):
    order = rng.sample(range(len(x.score_weight)), len(x.score_weight))
    changes = {name: x[name][order] for name in ("query_weight", "key_weight", "score_weight")}
    return tuple(run(x).values()), tuple(run(x, **changes).values())


def _energy(s, h, query_weight, key_weight, score_weight):
    return torch.tanh((s @ query_weight.mT)[:, :, None] + (h @ key_weight.mT)[:, None]) @ score_weight


def _with_energy(name: str, change) -> None:
    """A mistake of the scores: `change(query [b n 1 a], key [b 1 m a], score_weight)` gives wrong ones [b n m]."""

    def wrong(s, h, last, query_weight, key_weight, score_weight):
        energy = change((s @ query_weight.mT)[:, :, None], (h @ key_weight.mT)[:, None], score_weight)
        return align(energy, h, kept(h, last))

    additive_attention.mistake(name)(wrong)


_with_energy("the tanh is missing", lambda q, k, w: (q + k) @ w)
_with_energy("the tanh goes around each of the terms", lambda q, k, w: (torch.tanh(q) + torch.tanh(k)) @ w)
_with_energy("the tanh goes around the score", lambda q, k, w: torch.tanh((q + k) @ w))
_with_energy("the tanh is a sigmoid", lambda q, k, w: torch.sigmoid(q + k) @ w)
_with_energy("scores are scaled by a^-1/2", lambda q, k, w: torch.tanh(q + k) @ w * (0.5 if len(w) == 1 else len(w) ** -0.5))
_with_energy("queries and keys are multiplied", lambda q, k, w: torch.tanh(q * k) @ w)
_with_energy("the query is left out", lambda q, k, w: torch.tanh(k + 0 * q) @ w)
_with_energy("the score weight is left out", lambda q, k, w: torch.tanh(q + k).sum(-1) + 0 * w.sum())
_with_energy("the query is that of the step before", lambda q, k, w: torch.tanh(q.roll(1, 1) + k) @ w)
_with_energy("backward stops at the query", lambda q, k, w: torch.tanh(q.detach() + k) @ w)
_with_energy("backward stops at the key", lambda q, k, w: torch.tanh(q + k.detach()) @ w)


def _with_mask(name: str, change) -> None:
    """A mistake of visibility: `change(seen [b 1 m], key [m], last [b 1 1])` is the wrong mask."""

    def wrong(s, h, last, **weights):
        seen = change(kept(h, last), torch.arange(h.shape[1]), last[:, None, None])
        return align(_energy(s, h, **weights), h, seen)

    additive_attention.mistake(name)(wrong)


_with_mask("padding is seen", lambda seen, key, last: seen | True)
_with_mask("one place of padding is seen", lambda seen, key, last: seen | (key == last + 1))
_with_mask("the last annotation is hidden", lambda seen, key, last: seen & ((key < last) | (key == 0)))
_with_mask("the first annotation is hidden", lambda seen, key, last: seen & ((key > 0) | (last == 0)))
_with_mask("all rows are as long as the first", lambda seen, key, last: seen[:1].expand_as(seen))
_with_mask("the last partial tile of 16 is dropped", lambda seen, key, last: seen & (key < max(16, len(key) // 16 * 16)))
_with_mask("the last annotation of each tile of 16 is dropped", lambda seen, key, last: seen & (key % 16 != 15))


_with_mask(
    "a last annotation alone in its tile of 64 is not read",
    lambda seen, key, last: seen & ((key < len(key) - 1) | (len(key) % 64 != 1) | (len(key) == 1)),
)
_with_mask("annotations beyond the 256th are not read", lambda seen, key, last: seen & (key < 256))
_with_mask(
    "the last tile of 16 is dropped where it is whole",
    lambda seen, key, last: seen & ((key < len(key) - 16) | (len(key) % 16 != 0) | (last < len(key) - 16) | (key == 0)),
)


@additive_attention.mistake("rows beyond the 64th have states of zeros")
def _(s, h, last, **weights):
    return additive_attention(s * (torch.arange(len(s)) < 64)[:, None, None], h, last, **weights)


@additive_attention.mistake("the state's features beyond the 128th are not read")
def _(s, h, last, **weights):
    return additive_attention(s * (torch.arange(s.shape[2]) < 128), h, last, **weights)


@additive_attention.mistake("the annotations' features beyond the 128th are not averaged")
def _(s, h, last, **weights):
    out, weight = additive_attention(s, h, last, **weights)
    return out * (torch.arange(h.shape[2]) < 128), weight


@additive_attention.mistake("backward leaves out the key weight in a batch of one")
def _(s, h, last, query_weight, key_weight, score_weight):
    key_weight = key_weight if len(s) > 1 else key_weight.detach()
    return additive_attention(s, h, last, query_weight, key_weight, score_weight)


@additive_attention.mistake("the score of padding is zero")
def _(s, h, last, **weights):
    return align(_energy(s, h, **weights) * kept(h, last), h, torch.ones_like(kept(h, last)))


@additive_attention.mistake("annotations of zeros are taken for padding")
def _(s, h, last, **weights):
    seen = kept(h, last)
    heard = seen & (h != 0).any(-1)[:, None]
    return align(_energy(s, h, **weights), h, torch.where(heard.any(-1, keepdim=True), heard, seen))


@additive_attention.mistake("padding loses its weight after the normalisation")
def _(s, h, last, **weights):
    out, weight = align(_energy(s, h, **weights), h, torch.ones_like(kept(h, last)))
    weight = weight * kept(h, last)
    return weight @ h + 0 * out, weight


@additive_attention.mistake("the maximum is not subtracted")
def _(s, h, last, **weights):
    weight = torch.exp(_energy(s, h, **weights).float()).double() * kept(h, last)
    return weight @ h / weight.sum(-1, keepdim=True), weight / weight.sum(-1, keepdim=True)


@additive_attention.mistake("weights are a softmax over queries")
def _(s, h, last, **weights):
    weight = _energy(s, h, **weights).softmax(1) * kept(h, last)
    return weight @ h, weight


@additive_attention.mistake("weights are rounded to four bits")
def _(s, h, last, **weights):
    _, weight = additive_attention(s, h, last, **weights)
    coarse = weight + ((15 * weight).round() / 15 - weight).detach()
    return coarse @ h, weight


@additive_attention.mistake("the weights are put out before they are normalised")
def _(s, h, last, **weights):
    energy = _energy(s, h, **weights).masked_fill(~kept(h, last), -torch.inf)
    return additive_attention(s, h, last, **weights)[0], torch.exp(energy - energy.amax(-1, keepdim=True).detach())


@additive_attention.mistake("backward stops at the weights")
def _(s, h, last, **weights):
    out, weight = additive_attention(s, h, last, **weights)
    return out, weight.detach()


@additive_attention.mistake("backward misses the denominator")
def _(s, h, last, **weights):
    energy = _energy(s, h, **weights).masked_fill(~kept(h, last), -torch.inf)
    weight = torch.exp(energy - energy.logsumexp(-1, keepdim=True).detach())
    return weight @ h, weight


@additive_attention.mistake("the last tile of 16 units is left out where it is whole")
def _(s, h, last, score_weight, **weights):
    a = len(score_weight)
    score_weight = score_weight * ((torch.arange(a) < a - 16) | (a % 16 != 0))
    return additive_attention(s, h, last, score_weight=score_weight, **weights)


@additive_attention.mistake("the last tile of 16 features of the annotations is not averaged where it is whole")
def _(s, h, last, **weights):
    out, weight = additive_attention(s, h, last, **weights)
    e = h.shape[2]
    return out * ((torch.arange(e) < e - 16) | (e % 16 != 0)), weight


@additive_attention.mistake("the last tile of 16 features of the state is not read where it is whole")
def _(s, h, last, **weights):
    d = s.shape[2]
    return additive_attention(s * ((torch.arange(d) < d - 16) | (d % 16 != 0)), h, last, **weights)


@additive_attention.mistake("a last query alone in its tile of 64 is taken for zeros")
def _(s, h, last, **weights):
    n = s.shape[1]
    read = (torch.arange(n) < n - 1) | (n % 64 != 1) | (n == 1)
    return additive_attention(s * read[:, None], h, last, **weights)


@additive_attention.mistake("a state of a single feature is left out")
def _(s, h, last, **weights):
    return additive_attention(s if s.shape[2] > 1 else 0 * s, h, last, **weights)
