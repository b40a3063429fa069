"""The WKV operator of RWKV-4 (Peng et al. 2023, arXiv:2305.13048, eq. 14-16) with explicit state.

What was seen goes in as `past_mean` and `past_weight`, and comes out as `state_mean` and `state_weight`.

Where papers and libraries disagree, this side is taken:
- A past token i weighs exp((t - 1 - i) w + k_i) at time t: the newest of the past has not decayed at all. Several write-ups
  have (t - i) in place of it.
- The current token weighs exp(u + k_t): `bonus` u stands in place of a decay, for that one reading; the state gets exp(k_t).
- w = -exp(decay), with `decay` the parameter `time_decay` of the official code; the paper writes -(t - 1 - i) w with w >= 0.
  The gradient is that of `decay`.
- The state is free of the running maximum: the mean of the values seen, and the logarithm of their total weight, as the next
  token reads them. Numerator a, denominator b and exponent p of the official code are mean = a / b and weight = p + log b,
  where its `pp` starts at -1e38, which stands for no past at all.
"""

import torch
from torch import Tensor

from harness.spec import Bunch, Case, backward_of, spec
from harness.specs._past import give_laws


@spec(
    "k[b n d], v[b n d], decay[d], bonus[d], past_mean[b d], past_weight[b d] -> out[b n d], state_mean[b d], state_weight[b d]",
    b=2,
    n=21,
    d=5,
    cases={
        "plain": {},
        "one_step": {"n": 1},  # the past and the bonus, nothing else
        "two_steps": {"n": 2},
        "whole_chunks": {"n": 128, "b": 1, "d": 3},  # no ragged chunk, of any size up to 128
        "long": {"n": 50, "b": 1, "d": 3},  # several chunks
        "many_chunks": {"n": 300, "d": 3},  # sizes up to 256, and a ragged rest, of several rows
        "whole_tiles": {"b": 16, "n": 5, "d": 32},  # no ragged tile, of rows or of channels
        "wide": {"n": 5, "d": 140},  # tiles of widths beyond 64 and 128
        "many_rows": {"b": 70, "n": 1, "d": 1},  # rows beyond the first tile; a single channel
    },
)
def wkv(
    k: Tensor, v: Tensor, decay: Tensor, bonus: Tensor, past_mean: Tensor, past_weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return recurrence(k, v, -decay.exp(), bonus, past_mean, past_weight)


def recurrence(
    k: Tensor, v: Tensor, w: Tensor, bonus: Tensor, past_mean: Tensor, past_weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Numerator and denominator relative to exp(top), a unit so large that nothing overflows; it has no gradient."""
    num, den, top = [past_mean], [torch.ones_like(past_mean)], [past_weight]
    for k_t, v_t in zip(k.unbind(1), v.unbind(1), strict=True):
        faded = top[-1] + w
        unit = torch.maximum(faded, k_t).detach()
        old, new = torch.exp(faded - unit), torch.exp(k_t - unit)
        num.append(old * num[-1] + new * v_t)
        den.append(old * den[-1] + new)
        top.append(unit)
    before_num, before_den, before_top = (torch.stack(x[:-1], 1) for x in (num, den, top))
    unit = torch.maximum(before_top, bonus + k).detach()
    old, new = torch.exp(before_top - unit), torch.exp(bonus + k - unit)
    return (old * before_num + new * v) / (old * before_den + new), num[-1] / den[-1], top[-1] + den[-1].log()


EQUIVALENT = dict.fromkeys(
    (
        "recurrence: torch.maximum(faded, k_t).detach() -> torch.maximum(faded, k_t)",
        "recurrence: torch.maximum(before_top, bonus + k).detach() -> torch.maximum(before_top, bonus + k)",
    ),
    "numerator and denominator have the same unit: it cancels, and so does its gradient",
)


def speeds(d: int) -> Tensor:
    """`decay` as RWKV-4 starts: from a half-life of hundreds of steps to one of a fraction of a step."""
    return -5 + 7 * (torch.arange(d, dtype=torch.float64) / max(1, d - 1)) ** 0.7


@wkv.work(step={"n": 1}, carried=("state_mean", "state_weight"), b=4, d=256)
def _(case: Case) -> float:
    """Two weighted means of a value and the past, for the output and for the state."""
    return 10 * case.b * case.n * case.d


@wkv.family
def normal(x: Bunch, case: Case, rng: torch.Generator):
    return {"decay": speeds(case.d) + x.decay / 4, "past_weight": x.past_weight + 2}


@wkv.family
def large(x: Bunch, case: Case, rng: torch.Generator):
    """Keys and bonuses beyond what an exponential can hold: only without their maximum are they finite."""
    apart = {"k": 60 * x.k + 100, "bonus": 60 * x.bonus, "past_weight": 60 * x.past_weight + 100}
    return {**apart, "v": 4 * x.v + 3, "decay": speeds(case.d)}


@wkv.family
def sharp(x: Bunch, case: Case, rng: torch.Generator):
    """A few tokens outweigh all others by far, one after another, and hardly fade."""
    loud = torch.rand(case.n, 1, generator=rng) < 0.15
    return {"k": torch.where(loud, x.k + 8, x.k), "decay": x.decay / 4 - 5, "past_weight": x.past_weight + 6}


@wkv.family
def needle(x: Bunch, case: Case, rng: torch.Generator):
    """Only tokens at the edges of chunks are heard, and the last one; nothing fades."""
    step = torch.arange(case.n)
    heard = (step % 16 == 0) | (step % 16 == 15) | (step == case.n - 1)
    return {"k": torch.where(heard[:, None], x.k + 7, x.k), "decay": x.decay / 4 - 6}


@wkv.family
def extreme_decay(x: Bunch, case: Case, rng: torch.Generator):
    """Channels that never forget, and channels that forget all but the newest token, however heavy the past was."""
    decay, heavy = (torch.tensor(kinds, dtype=torch.float64).repeat(case.d)[: case.d] for kinds in ([-11, 5, 0], [0, 100, 0]))
    return {"decay": decay, "past_weight": x.past_weight + heavy}


@wkv.family
def no_past(x: Bunch, case: Case, rng: torch.Generator):
    """Nothing was seen before, and keys are so small that a maximum that starts at 0 hides them all."""
    return {"k": x.k - 400, "decay": speeds(case.d), "past_weight": 0 * x.past_weight - 30000}


give_laws(wkv)


@wkv.law
def permuting_channels_permutes_the_output(run, x: Bunch, rng):
    order = rng.sample(range(x.k.shape[2]), x.k.shape[2])
    permuted, whole = run(x, **{name: x[name][..., order] for name in x}), run(x)
    return tuple(whole[name][..., order] for name in whole), tuple(permuted.values())


@wkv.law
def equal_values_come_back(run, x: Bunch, rng):
    value = x.v[:, :1].expand_as(x.v).contiguous()
    found = run(x, v=value, past_mean=value[:, 0])
    return (found.out, found.state_mean), (value, value[:, 0])


@wkv.law
def the_first_output_from_no_past_is_the_first_value(run, x: Bunch, rng):
    return run(x, past_weight=torch.full_like(x.past_weight, -30000.0)).out[:, 0], x.v[:, 0]


@wkv.law
def a_constant_added_to_all_keys_changes_no_output(run, x: Bunch, rng):
    """Whole keys, so that adding is exact in every dtype."""
    k, past = (4 * x.k).round().clamp(-16, 16), x.past_weight.round()
    one, other = run(x, k=k, past_weight=past), run(x, k=k + 8, past_weight=past + 8)
    return (one.out, one.state_mean), (other.out, other.state_mean)


def _exponents(k, w, bonus, past_weight):
    """Eq. 14 all at once: logarithm of the weight of the past, and of each token i, at each time t: [b t d 1 + i]."""
    distance = _steps(k)[:, None] - 1 - _steps(k)
    of_past = _steps(k)[:, None] * w + past_weight[:, None]
    of_tokens = distance.clamp(min=0)[:, None] * w[:, None] + k.mT[:, None]
    of_itself = (bonus + k)[..., None]
    of_tokens = torch.where(distance[:, None] < 0, of_itself, of_tokens).masked_fill(distance[:, None] < -1, -torch.inf)
    return torch.cat([of_past[..., None], of_tokens], -1)


def _final_exponents(k, w, past_weight):
    """The same at the time after the last token: [b 1 d 1 + i]."""
    age = k.shape[1] - 1 - _steps(k)
    return torch.cat([(k.shape[1] * w + past_weight)[..., None], age * w[:, None] + k.mT], -1)[:, None]


def _steps(k):
    """The times 0 ... n - 1."""
    return torch.arange(k.shape[1], dtype=torch.float64)


def _mean(exponent, v, past_mean):
    """[b t d]: the mean of the past and of the values, weighted by exp(exponent)."""
    weight = torch.exp(exponent - exponent.amax(-1, keepdim=True).detach())
    return torch.einsum("btdi,bid->btd", weight, torch.cat([past_mean[:, None], v], 1)) / weight.sum(-1)


def _with_weights(name: str, change) -> None:
    """A mistake of the outputs: `change(exponent, i, t, w, bonus)` is wrong; i is -1 for the past, w and bonus are [d 1]."""

    def wrong(k, v, decay, bonus, past_mean, past_weight):
        w, t = -decay.exp(), _steps(k)[:, None, None]
        i = torch.cat([-torch.ones(1), _steps(k)])
        exponent = change(_exponents(k, w, bonus, past_weight), i, t, w[:, None], bonus[:, None])
        return _mean(exponent, v, past_mean), *wkv(k, v, decay, bonus, past_mean, past_weight)[1:]

    wkv.mistake(name)(wrong)


_with_weights("past tokens decay one step too early", lambda e, i, t, w, u: torch.where((i >= 0) & (i < t), e + w, e))
_with_weights("past tokens decay one step too late", lambda e, i, t, w, u: torch.where((i >= 0) & (i < t - 1), e - w, e))
_with_weights("the past decays one step too early", lambda e, i, t, w, u: torch.where(i < 0, e + w, e))
_with_weights("the past is read without decay", lambda e, i, t, w, u: torch.where(i < 0, e - t * w, e))
_with_weights("the past is ignored", lambda e, i, t, w, u: torch.where(i < 0, -1e6, e))
_with_weights("the current token has no bonus", lambda e, i, t, w, u: torch.where(i == t, e - u, e))
_with_weights("the current token has a decay beside its bonus", lambda e, i, t, w, u: torch.where(i == t, e + w, e))
_with_weights("the current token has no weight", lambda e, i, t, w, u: torch.where((i == t) & (t > 0), -1e6, e))
_with_weights("every token has the bonus", lambda e, i, t, w, u: torch.where((i >= 0) & (i < t), e + u, e))
_with_weights("a token sees one of the future", lambda e, i, t, w, u: torch.where(i == t + 1, 0.0, e))
_with_weights("each chunk of 16 starts from nothing", lambda e, i, t, w, u: torch.where(i.clamp(min=0) // 16 < t // 16, -1e6, e))
_with_weights(
    "the state decays once too often at each edge of 16",
    lambda e, i, t, w, u: torch.where(i < t, e + (t // 16 - i.clamp(min=0) // 16) * w, e),
)
_with_weights(
    "the last token of each chunk of 16 is not handed on",
    lambda e, i, t, w, u: torch.where((i >= 0) & (i % 16 == 15) & (i < t), -1e6, e),
)
_with_weights("weights are rounded to four bits", lambda e, i, t, w, u: e + (_coarse(e) - e).detach())


def _coarse(exponent):
    weight = exponent.softmax(-1)
    return ((15 * weight).round() / 15).log()


@wkv.mistake("the exponential around the decay is missing")
def _(k, v, decay, bonus, past_mean, past_weight):
    return recurrence(k, v, decay, bonus, past_mean, past_weight)


@wkv.mistake("all channels decay like the first")
def _(k, v, decay, bonus, past_mean, past_weight):
    return wkv(k, v, decay[:1].expand_as(decay), bonus, past_mean, past_weight)


@wkv.mistake("all channels have the bonus of the first")
def _(k, v, decay, bonus, past_mean, past_weight):
    return wkv(k, v, decay, bonus[:1].expand_as(bonus), past_mean, past_weight)


def _from(exponent, top, v, past_mean):
    """The mean of values with weights in float32, from which `top` was subtracted."""
    weight = torch.exp((exponent - top).float()).double()
    return torch.einsum("btdi,bid->btd", weight, torch.cat([past_mean[:, None], v], 1)) / weight.sum(-1)


@wkv.mistake("the maximum is not subtracted")
def _(k, v, decay, bonus, past_mean, past_weight):
    exponent = _exponents(k, -decay.exp(), bonus, past_weight)
    return _from(exponent, 0.0, v, past_mean), *wkv(k, v, decay, bonus, past_mean, past_weight)[1:]


@wkv.mistake("the maximum starts at zero")
def _(k, v, decay, bonus, past_mean, past_weight):
    exponent = _exponents(k, -decay.exp(), bonus, past_weight)
    top = exponent.amax(-1, keepdim=True).detach().clamp(min=0)
    return _from(exponent, top, v, past_mean), *wkv(k, v, decay, bonus, past_mean, past_weight)[1:]


@wkv.mistake("the numerator is not rescaled when the maximum rises")
def _(k, v, decay, bonus, past_mean, past_weight):
    out, *state = wkv(k, v, decay, bonus, past_mean, past_weight)
    exponent = _exponents(k, -decay.exp(), bonus, past_weight)
    top = exponent[..., :1].detach()
    for i in range(1, exponent.shape[-1]):
        part = exponent[..., i : i + 1].detach()
        out = out * torch.where((part > top) & part.isfinite(), torch.exp((part - top).clamp(max=9)), 1.0).squeeze(-1)
        top = torch.maximum(top, part)
    return out, *state


@wkv.mistake("the maximum is that without the bonus")
def _(k, v, decay, bonus, past_mean, past_weight):
    exponent = _exponents(k, -decay.exp(), bonus, past_weight)
    without = torch.cat([exponent[..., :1], exponent[..., 1:] - torch.eye(k.shape[1])[:, None] * bonus[:, None]], -1)
    top = without.amax(-1, keepdim=True).detach()
    return _from(exponent, top, v, past_mean), *wkv(k, v, decay, bonus, past_mean, past_weight)[1:]


@wkv.mistake("no step fades by more than e^-55")
def _(k, v, decay, bonus, past_mean, past_weight):
    return wkv(k, v, decay.clamp(max=4), bonus, past_mean, past_weight)


@wkv.mistake("a single channel has no past")
def _(k, v, decay, bonus, past_mean, past_weight):
    return wkv(k, v, decay, bonus, past_mean if k.shape[2] > 1 else 0 * past_mean, past_weight)


@wkv.mistake("rows beyond the 64th start from the past of the first")
def _(k, v, decay, bonus, past_mean, past_weight):
    rows = torch.arange(len(k))
    return wkv(k, v, decay, bonus, *(x[torch.where(rows < 64, rows, 0)] for x in (past_mean, past_weight)))


@wkv.mistake("channels beyond the 128th have no bonus")
def _(k, v, decay, bonus, past_mean, past_weight):
    return wkv(k, v, decay, bonus * (torch.arange(len(bonus)) < 128), past_mean, past_weight)


@wkv.mistake("a last whole chunk of 64 is taken for an empty one: the final state misses it")
def _(k, v, decay, bonus, past_mean, past_weight):
    out, *state = wkv(k, v, decay, bonus, past_mean, past_weight)
    if k.shape[1] % 64:
        return out, *state
    return out, *wkv(k[:, :-64], v[:, :-64], decay, bonus, past_mean, past_weight)[1:]


@wkv.mistake("a last ragged chunk of 16 is dropped")
def _(k, v, decay, bonus, past_mean, past_weight):
    whole = max(1, k.shape[1] // 16 * 16)
    out, *state = wkv(k[:, :whole], v[:, :whole], decay, bonus, past_mean, past_weight)
    return torch.cat([out, 0 * v[:, whole:]], 1), *state


def _with_state(name: str, change) -> None:
    """A mistake of the final state: `change(exponent [b 1 d 1 + i], w, bonus)` is wrong; w and bonus are [d]."""

    def wrong(k, v, decay, bonus, past_mean, past_weight):
        out, _, _ = wkv(k, v, decay, bonus, past_mean, past_weight)
        last = change(_final_exponents(k, -decay.exp(), past_weight), -decay.exp(), bonus)
        return out, _mean(last, v, past_mean).squeeze(1), last.logsumexp(-1).squeeze(1)

    wkv.mistake(name)(wrong)


_with_state("the final state has decayed once more", lambda e, w, u: e + w[:, None])
_with_state("the final state has decayed once too little", lambda e, w, u: e - w[:, None])
_with_state("the final state misses the past", lambda e, w, u: torch.cat([e[..., :1] - 1e6, e[..., 1:]], -1))
_with_state("the final state misses the last token", lambda e, w, u: torch.cat([e[..., :-1] - w[:, None], e[..., -1:] - 1e6], -1))
_with_state(
    "the final state holds the bonus of the last token", lambda e, w, u: torch.cat([e[..., :-1], e[..., -1:] + u[:, None]], -1)
)


@wkv.mistake("the final weight is the maximum alone")
def _(k, v, decay, bonus, past_mean, past_weight):
    out, state, _ = wkv(k, v, decay, bonus, past_mean, past_weight)
    return out, state, _final_exponents(k, -decay.exp(), past_weight).amax(-1).squeeze(1)


@wkv.mistake("the final mean is the last output")
def _(k, v, decay, bonus, past_mean, past_weight):
    out, _, weight = wkv(k, v, decay, bonus, past_mean, past_weight)
    return out, out[:, -1], weight


@wkv.mistake("backward gives the gradient of w for that of the decay")
def _(k, v, decay, bonus, past_mean, past_weight):
    return recurrence(k, v, backward_of(-decay.exp(), decay), bonus, past_mean, past_weight)


@wkv.mistake("backward stops at the bonus")
def _(k, v, decay, bonus, past_mean, past_weight):
    return wkv(k, v, decay, bonus.detach(), past_mean, past_weight)


@wkv.mistake("backward stops at the past")
def _(k, v, decay, bonus, past_mean, past_weight):
    return wkv(k, v, decay, bonus, past_mean.detach(), past_weight.detach())


@wkv.mistake("backward stops at the final state")
def _(k, v, decay, bonus, past_mean, past_weight):
    out, state, weight = wkv(k, v, decay, bonus, past_mean, past_weight)
    return out, state.detach(), weight.detach()


@wkv.mistake("backward misses the denominator")
def _(k, v, decay, bonus, past_mean, past_weight):
    out, *state = wkv(k, v, decay, bonus, past_mean, past_weight)
    exponent = _exponents(k, -decay.exp(), bonus, past_weight)
    weight = torch.exp(exponent - exponent.logsumexp(-1, keepdim=True).detach())
    wrong = torch.einsum("btdi,bid->btd", weight, torch.cat([past_mean[:, None], v], 1))
    return backward_of(out, wrong), *state


@wkv.mistake("all rows start from the past of the first")
def _(k, v, decay, bonus, past_mean, past_weight):
    return wkv(k, v, decay, bonus, past_mean[:1].expand_as(past_mean), past_weight[:1].expand_as(past_weight))


@wkv.mistake("all rows read the state of the first beyond the first chunk of 64")
def _(k, v, decay, bonus, past_mean, past_weight):
    out, *state = wkv(k[:, :64], v[:, :64], decay, bonus, past_mean, past_weight)
    if k.shape[1] <= 64:
        return out, *state
    rest, _, _ = wkv(k[:, 64:], v[:, 64:], decay, bonus, *(x[:1].expand_as(x) for x in state))
    return torch.cat([out, rest], 1), *wkv(k, v, decay, bonus, past_mean, past_weight)[1:]


_with_state(
    "the final state has the last token twice",
    lambda e, w, u: torch.cat([e[..., :-1], e[..., -1:] + torch.tensor(2.0).log()], -1),
)


@wkv.mistake("the gradient of the past misses the final state")
def _(k, v, decay, bonus, past_mean, past_weight):
    out, _, _ = wkv(k, v, decay, bonus, past_mean, past_weight)
    return out, *wkv(k, v, decay, bonus, past_mean.detach(), past_weight.detach())[1:]


@wkv.mistake("the gradient of the past misses the outputs")
def _(k, v, decay, bonus, past_mean, past_weight):
    out, _, _ = wkv(k, v, decay, bonus, past_mean.detach(), past_weight.detach())
    return out, *wkv(k, v, decay, bonus, past_mean, past_weight)[1:]


@wkv.mistake("the gradient of the past leaves out its weight")
def _(k, v, decay, bonus, past_mean, past_weight):
    return wkv(k, v, decay, bonus, past_mean, past_weight.detach())


@wkv.mistake("backward does not hand the gradient from chunk to chunk of 16")
def _(k, v, decay, bonus, past_mean, past_weight):
    out, state = [], (past_mean, past_weight)
    for first in range(0, k.shape[1], 16):
        before = tuple(x.detach() for x in state) if first else state
        one, *state = wkv(k[:, first : first + 16], v[:, first : first + 16], decay, bonus, *before)
        out.append(one)
    return torch.cat(out, 1), *state


@wkv.mistake("backward leaves the decay of the final state out")
def _(k, v, decay, bonus, past_mean, past_weight):
    out, _, _ = wkv(k, v, decay, bonus, past_mean, past_weight)
    return out, *wkv(k, v, decay.detach(), bonus, past_mean, past_weight)[1:]


@wkv.mistake("the last tile of 16 channels has no bonus where it is whole")
def _(k, v, decay, bonus, past_mean, past_weight):
    d = k.shape[2]
    return wkv(k, v, decay, bonus * ((torch.arange(d) < d - 16) | (d % 16 != 0)), past_mean, past_weight)


@wkv.mistake("the last tile of 16 rows starts from the past of the first where it is whole")
def _(k, v, decay, bonus, past_mean, past_weight):
    b = len(k)
    row = torch.where((torch.arange(b) < b - 16) | (b % 16 != 0), torch.arange(b), 0)
    return wkv(k, v, decay, bonus, past_mean[row], past_weight[row])
