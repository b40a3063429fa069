"""Causal linear attention (Katharopoulos et al. 2020, arXiv:2006.16236, eq. 7-9, 18-20) with explicit state.

The sums over what was seen go in as `past` and `past_sum`, and come out as `state` and `state_sum`.

Where papers and libraries disagree, this side is taken:
- The feature map is elu(x) + 1, of queries and keys both; nothing is scaled by d^-1/2, before the map or after (fla
  scales queries after it, which the normalisation undoes).
- A token sees itself. The outputs are normalised, and nothing is added to the denominator: the official code adds 1e-6,
  fla 1e-10.
- The state is the pair of sums of eq. 18 and 19, not normalised; libraries that keep one of them (fla, without `normalize`)
  compute something else.
- elu(x) + 1 is taken as it stands: far below zero it cancels to e^x, and what that loses in float32 is allowed.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.spec import Bunch, Case, spec
from harness.specs._past import give_laws


@spec(
    "q[b h n d], k[b h n d], v[b h n e], past[b h d e], past_sum[b h d] -> out[b h n e], state[b h d e], state_sum[b h d]",
    b=2,
    h=3,
    n=37,
    d=8,
    e=5,
    cases={
        "plain": {},
        "one_step": {"n": 1},
        "two_steps": {"n": 2},
        "whole_chunks": {"n": 64},  # no ragged chunk
        "long": {"n": 100, "b": 1, "h": 2},  # several chunks
        "many_chunks": {"n": 300, "h": 2},  # sizes up to 256, and a ragged rest, of several rows
        "very_long": {"n": 1030, "b": 1, "h": 1, "d": 4, "e": 3},  # the last rows, after all that was summed
        "wide": {"n": 5, "b": 1, "h": 1, "d": 136, "e": 140},  # tiles of widths beyond 128
        "wide_keys": {"n": 201, "b": 1, "h": 1, "d": 136, "e": 2},  # several tiles of a state, handed from chunk to chunk
        "wide_values": {"n": 201, "b": 1, "h": 1, "d": 2, "e": 136},
        "many_states": {"n": 70, "b": 2, "h": 9, "d": 2, "e": 2},  # each row and head has its own in every chunk
        "many_rows": {"b": 70, "h": 1, "n": 1, "d": 3, "e": 2},
        "many_heads": {"b": 1, "h": 70, "n": 3, "d": 4, "e": 2},
        "one_head": {"h": 1},
        "one_value": {"e": 1},
    },
)
def linear_attention(q: Tensor, k: Tensor, v: Tensor, past: Tensor, past_sum: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    row, k = feature(q)[..., None, :], feature(k)
    state = past[:, :, None] + (k[..., :, None] @ v[..., None, :]).cumsum(2)
    total = past_sum[:, :, None] + k.cumsum(2)
    out = row @ state / (row @ total[..., None])
    return out.squeeze(-2), state[:, :, -1], total[:, :, -1]


def feature(x: Tensor) -> Tensor:
    """phi(x) of the paper (eq. 7): positive, so that no denominator is zero."""
    return F.elu(x) + 1


EQUIVALENT = {
    "linear_attention: k[..., :, None] @ v[..., None, :] -> k[..., :, None] * v[..., None, :]": (
        "a column times a row: every product has one term"
    ),
}


def some_past(case: Case, rng: torch.Generator, tokens: int = 5, offset: float = 0.0) -> dict[str, Tensor]:
    """The state that a few tokens would have left."""
    k = feature(torch.randn(case.b, case.h, tokens, case.d, generator=rng, dtype=torch.float64) + offset)
    v = torch.randn(case.b, case.h, tokens, case.e, generator=rng, dtype=torch.float64)
    return {"past": k.mT @ v, "past_sum": k.sum(2)}


@linear_attention.work(step={"n": 1}, carried=("state", "state_sum"), b=1, h=4, d=64, e=64)
def _(case: Case) -> float:
    """The state takes up a token, and a query reads it: two products of d by e numbers."""
    return 4 * case.b * case.h * case.n * case.d * case.e


@linear_attention.family
def normal(x: Bunch, case: Case, rng: torch.Generator):
    return some_past(case, rng)


@linear_attention.family
def large(x: Bunch, case: Case, rng: torch.Generator):
    """Big magnitudes; some entries of keys have an exponential that no float32 holds: taken in vain, it makes NaN gradients."""
    beyond = torch.rand(x.k.shape, generator=rng) < 0.01
    changed = {name: 3 * x[name] + 2 for name in "qkv"}
    return changed | {"k": torch.where(beyond, 100.0, changed["k"]), **some_past(case, rng, offset=3.0)}


@linear_attention.family
def sharp(x: Bunch, case: Case, rng: torch.Generator):
    """A few keys are heard, a hundred times as loud as the others."""
    loud = torch.rand(case.n, 1, generator=rng) < 0.15
    return {"k": torch.where(loud, 8 * x.k, x.k - 4), **some_past(case, rng, offset=-4.0)}


@linear_attention.family
def needle(x: Bunch, case: Case, rng: torch.Generator):
    """Only tokens at the edges of chunks are heard, and the last one."""
    step = torch.arange(case.n)
    heard = (step % 16 == 0) | (step % 16 == 15) | (step == case.n - 1)
    return {"k": torch.where(heard[:, None], x.k + 2, x.k - 6), **some_past(case, rng, offset=-6.0)}


@linear_attention.family
def faint(x: Bunch, case: Case, rng: torch.Generator):
    """Features and past next to nothing: what is added to a denominator, or put below it, shows."""
    return {"q": x.q / 2 - 8, "k": x.k / 2 - 8, "past": 0 * x.past, "past_sum": 0 * x.past_sum}


STATE = ("past", "past_sum")


give_laws(linear_attention)


@linear_attention.law(when=lambda case: case.h > 1)
def permuting_heads_permutes_the_output(run, x: Bunch, rng):
    order = rng.sample(range(x.q.shape[1]), x.q.shape[1])
    permuted = run(x, **{name: x[name][:, order] for name in ("q", "k", "v", *STATE)})
    whole = run(x)
    return tuple(whole[name][:, order] for name in whole), tuple(permuted.values())


@linear_attention.law
def equal_values_come_back(run, x: Bunch, rng):
    """From an empty past: every output is a mean of values."""
    row = x.v[:, :, :1].expand_as(x.v).contiguous()
    return run(x, v=row, past=torch.zeros_like(x.past), past_sum=torch.zeros_like(x.past_sum)).out, row


@linear_attention.law
def the_scale_of_the_weights_does_not_matter(run, x: Bunch, rng):
    """A positive query's feature is its entry plus one: 2q + 1 doubles it."""
    positive = torch.ones_like(x.q) * torch.arange(1, x.q.shape[-1] + 1, device=x.q.device)
    return run(x, q=positive).out, run(x, q=2 * positive + 1).out


def _sums(q, k, v, past, past_sum, seen=None):
    """Numerators, denominators and final state by eq. 9, for features q and k, where each query sees the keys `seen` [n n]."""
    weight = (q @ k.mT).masked_fill(~(_visible(q.shape[2]) if seen is None else seen), 0.0)
    denominator = q @ past_sum[..., None] + weight.sum(-1, keepdim=True)
    return q @ past + weight @ v, denominator, past + k.mT @ v, past_sum + k.sum(2)


def _visible(n):
    return torch.ones(n, n, dtype=torch.bool).tril()


def _with_features(name: str, of_query, of_key) -> None:
    """A mistake of the feature map."""

    def wrong(q, k, v, past, past_sum):
        numerator, denominator, *state = _sums(of_query(q), of_key(k), v, past, past_sum)
        return numerator / denominator, *state

    linear_attention.mistake(name)(wrong)


_with_features("the feature map is elu, without the 1", lambda q: F.elu(q), lambda k: F.elu(k))
_with_features("the feature map is relu(x) + 1", lambda q: F.relu(q) + 1, lambda k: F.relu(k) + 1)
_with_features("the feature map is the exponential", torch.exp, torch.exp)
_with_features("keys go in without the feature map", feature, lambda k: k)
_with_features("queries go in without the feature map", lambda q: q, feature)
_with_features("queries are scaled by d^-1/2 before the feature map", lambda q: feature(q * q.shape[-1] ** -0.5), feature)


def _with_mask(name: str, change) -> None:
    """A mistake of visibility: `change(seen, query, key)` is the wrong mask."""

    def wrong(q, k, v, past, past_sum):
        step = torch.arange(q.shape[2])
        seen = change(_visible(q.shape[2]), step[:, None], step[None, :])
        numerator, denominator, *state = _sums(feature(q), feature(k), v, past, past_sum, seen)
        return numerator / denominator, *state

    linear_attention.mistake(name)(wrong)


_with_mask("a token is read before its key is written", lambda seen, q, k: seen & (k != q))
_with_mask("a token sees one key of the future", lambda seen, q, k: seen | (k == q + 1))
_with_mask("all keys of a chunk of 16 are seen", lambda seen, q, k: seen | (k // 16 == q // 16))
_with_mask("each chunk of 16 starts from the past", lambda seen, q, k: seen & (k // 16 == q // 16))
_with_mask("the chunk before is not seen", lambda seen, q, k: seen & (k // 16 != q // 16 - 1))
_with_mask("the last key of each chunk of 16 is dropped", lambda seen, q, k: seen & ((k % 16 != 15) | (k == q)))


@linear_attention.mistake("the outputs are not normalised")
def _(q, k, v, past, past_sum):
    numerator, _, *state = _sums(feature(q), feature(k), v, past, past_sum)
    return numerator, *state


@linear_attention.mistake("the denominator is at least 1")
def _(q, k, v, past, past_sum):
    numerator, denominator, *state = _sums(feature(q), feature(k), v, past, past_sum)
    return numerator / denominator.clamp(min=1), *state


@linear_attention.mistake("1e-6 is added to the denominator")
def _(q, k, v, past, past_sum):
    numerator, denominator, *state = _sums(feature(q), feature(k), v, past, past_sum)
    return numerator / (denominator + 1e-6), *state


@linear_attention.mistake("the denominator misses the past")
def _(q, k, v, past, past_sum):
    out, state, _ = linear_attention(q, k, v, past, 0 * past_sum)
    return out, state, linear_attention(q, k, v, past, past_sum)[2]


@linear_attention.mistake("the past is ignored")
def _(q, k, v, past, past_sum):
    return linear_attention(q, k, v, 0 * past, 0 * past_sum)


@linear_attention.mistake("the past is written once in each chunk of 16")
def _(q, k, v, past, past_sum):
    out, state, total = [], past, past_sum
    for first in range(0, q.shape[2], 16):
        one, state, total = linear_attention(*(x[:, :, first : first + 16] for x in (q, k, v)), state, total)
        out.append(one)
        if first + 16 < q.shape[2]:
            state, total = state + past, total + past_sum
    return torch.cat(out, 2), state, total


@linear_attention.mistake("the final state misses the past")
def _(q, k, v, past, past_sum):
    out, _, _ = linear_attention(q, k, v, past, past_sum)
    return out, *linear_attention(q, k, v, 0 * past, 0 * past_sum)[1:]


@linear_attention.mistake("the final state misses the last token")
def _(q, k, v, past, past_sum):
    out, _, _ = linear_attention(q, k, v, past, past_sum)
    return out, past + feature(k[:, :, :-1]).mT @ v[:, :, :-1], past_sum + feature(k[:, :, :-1]).sum(2)


@linear_attention.mistake("the final sum of keys misses the last token")
def _(q, k, v, past, past_sum):
    out, state, total = linear_attention(q, k, v, past, past_sum)
    return out, state, total - feature(k[:, :, -1])


@linear_attention.mistake("the final state is transposed into place")
def _(q, k, v, past, past_sum):
    out, state, total = linear_attention(q, k, v, past, past_sum)
    return out, state.mT.reshape(state.shape), total


@linear_attention.mistake("a last ragged chunk of 16 is dropped")
def _(q, k, v, past, past_sum):
    whole = max(1, q.shape[2] // 16 * 16)
    out, *state = linear_attention(q[:, :, :whole], k[:, :, :whole], v[:, :, :whole], past, past_sum)
    return torch.cat([out, 0 * v[:, :, whole:]], 2), *state


@linear_attention.mistake("a last ragged chunk of 16 counts its padding")
def _(q, k, v, past, past_sum):
    short = -q.shape[2] % 16
    out, state, total = linear_attention(q, k, v, past, past_sum)
    # Keys of zeros have features of one.
    return out, state, total + short


@linear_attention.mistake("backward stops at the past")
def _(q, k, v, past, past_sum):
    return linear_attention(q, k, v, past.detach(), past_sum.detach())


@linear_attention.mistake("backward stops at the final state")
def _(q, k, v, past, past_sum):
    out, state, total = linear_attention(q, k, v, past, past_sum)
    return out, state.detach(), total.detach()


@linear_attention.mistake("backward stops at the denominator")
def _(q, k, v, past, past_sum):
    numerator, denominator, *state = _sums(feature(q), feature(k), v, past, past_sum)
    return numerator / denominator.detach(), *state


@linear_attention.mistake("backward does not hand the gradient from chunk to chunk of 16")
def _(q, k, v, past, past_sum):
    out, state, total = [], past, past_sum
    for first in range(0, q.shape[2], 16):
        part = (x[:, :, first : first + 16] for x in (q, k, v))
        one, state, total = linear_attention(*part, state.detach() if first else state, total.detach() if first else total)
        out.append(one)
    return torch.cat(out, 2), *linear_attention(q, k, v, past, past_sum)[1:]


@linear_attention.mistake("all rows start from the past of the first")
def _(q, k, v, past, past_sum):
    return linear_attention(q, k, v, past[:1].expand_as(past), past_sum[:1].expand_as(past_sum))


@linear_attention.mistake("all rows read the state of the first beyond the first chunk of 64")
def _(q, k, v, past, past_sum):
    out, state, total = linear_attention(q[:, :, :64], k[:, :, :64], v[:, :, :64], past, past_sum)
    if q.shape[2] <= 64:
        return out, state, total
    first = (x[:1].expand_as(x) for x in (state, total))
    rest, _, _ = linear_attention(q[:, :, 64:], k[:, :, 64:], v[:, :, 64:], *first)
    return torch.cat([out, rest], 2), *linear_attention(q, k, v, past, past_sum)[1:]


@linear_attention.mistake("rows beyond the 64th start from the past of the first")
def _(q, k, v, past, past_sum):
    rows = torch.arange(len(q))
    return linear_attention(q, k, v, *(x[torch.where(rows < 64, rows, 0)] for x in (past, past_sum)))


@linear_attention.mistake("heads beyond the 64th start from the past of the first")
def _(q, k, v, past, past_sum):
    heads = torch.arange(q.shape[1])
    return linear_attention(q, k, v, *(x[:, torch.where(heads < 64, heads, 0)] for x in (past, past_sum)))


@linear_attention.mistake("values beyond the 128th are not written")
def _(q, k, v, past, past_sum):
    return linear_attention(q, k, v * (torch.arange(v.shape[-1]) < 128), past, past_sum)


@linear_attention.mistake("features beyond the 64th are not read")
def _(q, k, v, past, past_sum):
    numerator, denominator, _, _ = _sums(feature(q)[..., :64], feature(k)[..., :64], v, past[:, :, :64], past_sum[..., :64])
    return numerator / denominator, *linear_attention(q, k, v, past, past_sum)[1:]


@linear_attention.mistake("the final state has the last token twice")
def _(q, k, v, past, past_sum):
    out, state, total = linear_attention(q, k, v, past, past_sum)
    last = feature(k[:, :, -1])
    return out, state + last[..., :, None] * v[:, :, -1, None, :], total + last


@linear_attention.mistake("the gradient of the past misses the final state")
def _(q, k, v, past, past_sum):
    out, _, _ = linear_attention(q, k, v, past, past_sum)
    return out, *linear_attention(q, k, v, past.detach(), past_sum.detach())[1:]


@linear_attention.mistake("the gradient of the past misses the outputs")
def _(q, k, v, past, past_sum):
    out, _, _ = linear_attention(q, k, v, past.detach(), past_sum.detach())
    return out, *linear_attention(q, k, v, past, past_sum)[1:]


@linear_attention.mistake("backward leaves a last ragged chunk of 16 without gradients")
def _(q, k, v, past, past_sum):
    whole = q.shape[2] // 16 * 16
    inside = (torch.arange(q.shape[2]) < whole)[:, None] | (whole == 0)
    return linear_attention(*(torch.where(inside, x, x.detach()) for x in (q, k, v)), past, past_sum)


@linear_attention.mistake("the feature map takes exponentials of large entries too, whose gradient is NaN")
def _(q, k, v, past, past_sum):
    # exp(8x) leaves float64 where exp(x) leaves float32.
    both = lambda x: torch.where(x > 0, x + 1, x.exp() + 0 * (8 * x).exp())  # noqa: E731
    numerator, denominator, *state = _sums(both(q), both(k), v, past, past_sum)
    return numerator / denominator, *state


@linear_attention.mistake("the denominator is at least 1e-6")
def _(q, k, v, past, past_sum):
    numerator, denominator, *state = _sums(feature(q), feature(k), v, past, past_sum)
    return numerator / denominator.clamp(min=1e-6), *state


@linear_attention.mistake("features beyond the 128th are not handed on beyond the first chunk of 64")
def _(q, k, v, past, past_sum):
    out, state, total = linear_attention(q[:, :, :64], k[:, :, :64], v[:, :, :64], past, past_sum)
    if q.shape[2] <= 64:
        return out, state, total
    carried = torch.arange(q.shape[-1]) < 128
    rest, _, _ = linear_attention(q[:, :, 64:], k[:, :, 64:], v[:, :, 64:], state * carried[:, None], total * carried)
    return torch.cat([out, rest], 2), *linear_attention(q, k, v, past, past_sum)[1:]
