"""Retention (Sun et al. 2023, arXiv:2307.08621, eq. 5-7) with explicit state: `past` goes in, `state` comes out.

Where papers and libraries disagree, this side is taken:
- This is the sum alone: the scale d^-1/2, the rotation (`rotary`), the normalisation of scores and the group norm
  stand around it, in the model (torchscale and fla each fold some of them in).
- A token's own key enters before it is read, without decay: out_n = q_n (decay * state_{n-1} + k_n v_n^T).
- `decay` is given per head and stays in float32; RetNet's are 1 - 2^(-5 - head), other code spaces them otherwise.
"""

import torch
from torch import Tensor

from harness.spec import Bunch, Case, backward_of, spec
from harness.specs._past import give_laws


@spec(
    "q[b h n d], k[b h n d], v[b h n e], past[b h d e], decay[h]:float32 -> out[b h n e], state[b h d e]",
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
        "long": {"n": 150, "b": 1, "h": 2},  # several chunks
        "many_chunks": {"n": 530, "b": 1, "h": 2},  # sizes up to 512, and a ragged rest
        "wide": {"n": 5, "b": 1, "h": 1, "d": 136, "e": 140},  # tiles of widths beyond 128
        "wide_keys": {"n": 201, "b": 1, "h": 1, "d": 136, "e": 2},  # several tiles of a state, handed from chunk to chunk
        "wide_values": {"n": 201, "b": 1, "h": 1, "d": 2, "e": 136},
        "many_states": {"n": 70, "b": 2, "h": 9, "d": 2, "e": 2},  # each row and head has its own in every chunk
        "many_rows": {"b": 70, "h": 1, "n": 1, "d": 3, "e": 2},
        "many_heads": {"b": 1, "h": 20, "n": 19, "d": 4, "e": 1},  # as many as have a decay of their own in float32
        "one_head": {"h": 1},
        "odd_widths": {"b": 3, "h": 2, "n": 11, "d": 20, "e": 27},
    },
)
def retention(q: Tensor, k: Tensor, v: Tensor, past: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
    gamma, state, out = decay[:, None, None], past, []
    # What 64 steps write and read is told at once: the same sums as one by one, for a fifth of the time.
    for q_c, k_c, v_c in zip(q.split(64, 2), k.split(64, 2), v.split(64, 2), strict=True):
        states = []
        for written in (k_c[..., :, None] * v_c[..., None, :]).unbind(2):
            state = gamma * state + written
            states.append(state)
        out.append((q_c[..., None, :] @ torch.stack(states, 2)).squeeze(-2))
    return torch.cat(out, 2), state


def retnet_decay(h: int) -> Tensor:
    """The decays of RetNet's h heads: 1 - 2^-5, 1 - 2^-6, ... [h], float64."""
    return 1 - 2.0 ** (-5 - torch.arange(h, dtype=torch.float64))


@retention.work(step={"n": 1}, carried=("state",), b=1, h=4, d=64, e=64)
def _(case: Case) -> float:
    """The state takes up a token, and a query reads it: two products of d by e numbers."""
    return 4 * case.b * case.h * case.n * case.d * case.e


@retention.family
def normal(x: Bunch, case: Case, rng: torch.Generator):
    return {"decay": retnet_decay(case.h)}


@retention.family
def large(x: Bunch, case: Case, rng: torch.Generator):
    big = {name: 3 * x[name] + 2 for name in ("q", "k", "v", "past")}
    return {**big, "decay": retnet_decay(case.h)}


@retention.family
def sharp(x: Bunch, case: Case, rng: torch.Generator):
    """A few keys are a hundred times the others; decays that no 16-bit dtype holds."""
    loud = torch.rand(case.n, 1, generator=rng) < 0.1
    decay = 0.9 + 0.0999 * torch.rand(case.h, generator=rng, dtype=torch.float64)
    return {"k": torch.where(loud, 10 * x.k, x.k / 10), "decay": decay}


@retention.family
def needle(x: Bunch, case: Case, rng: torch.Generator):
    """Only tokens at the edges of chunks are heard, and the last one."""
    step = torch.arange(case.n)
    heard = (step % 16 == 0) | (step % 16 == 15) | (step == case.n - 1)
    return {"k": x.k * heard[:, None], "past": 0 * x.past, "decay": retnet_decay(case.h)}


@retention.family
def fast_decay(x: Bunch, case: Case, rng: torch.Generator):
    """Heads that forget at once, in a few steps, and never."""
    return {"decay": torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64).repeat(case.h)[: case.h]}


give_laws(retention)


@retention.law(when=lambda case: case.h > 1)
def permuting_heads_permutes_the_output(run, x: Bunch, rng):
    order = rng.sample(range(x.q.shape[1]), x.q.shape[1])
    permuted = run(x, **{name: x[name][:, order] for name in ("q", "k", "v", "past")}, decay=x.decay[order])
    whole = run(x)
    return (whole.out[:, order], whole.state[:, order]), (permuted.out, permuted.state)


def _steps(q, k, v, past, decay, step):
    """Run `step(n, state, q_n, decay, write) -> (out_n, state)` over the tokens; `write` is key times value, [d e]."""
    state, out, gamma = past, [], decay[:, None, None]
    for n in range(q.shape[2]):
        write = k[:, :, n, :, None] * v[:, :, n, None, :]
        out_n, state = step(n, state, q[:, :, n, None, :], gamma, write)
        out.append(out_n.squeeze(-2))
    return torch.stack(out, 2), state


@retention.mistake("decays one step too late")
def _(q, k, v, past, decay):
    def step(n, state, q_n, gamma, write):
        state = state * (gamma if n > 0 else 1.0) + write
        return q_n @ state, state

    return _steps(q, k, v, past, decay, step)


@retention.mistake("a token's own key decays before it is read")
def _(q, k, v, past, decay):
    def step(n, state, q_n, gamma, write):
        state = gamma * (state + write)
        return q_n @ state, state

    return _steps(q, k, v, past, decay, step)


@retention.mistake("a token is read before its key is written")
def _(q, k, v, past, decay):
    def step(n, state, q_n, gamma, write):
        return q_n @ (gamma * state), gamma * state + write

    return _steps(q, k, v, past, decay, step)


@retention.mistake("the past is ignored")
def _(q, k, v, past, decay):
    return retention(q, k, v, 0 * past, decay)


@retention.mistake("the past is read without decay")
def _(q, k, v, past, decay):
    out, state = retention(q, k, v, 0 * past, decay)
    power = decay[:, None, None] ** q.shape[2]
    return out + q @ past, state + power * past


@retention.mistake("the final state misses the last token")
def _(q, k, v, past, decay):
    out, _ = retention(q, k, v, past, decay)
    _, state = retention(q[:, :, :-1], k[:, :, :-1], v[:, :, :-1], past, decay) if q.shape[2] > 1 else (None, past)
    return out, state


@retention.mistake("the final state has decayed once more")
def _(q, k, v, past, decay):
    out, state = retention(q, k, v, past, decay)
    return out, decay[:, None, None] * state


@retention.mistake("the final state misses the past")
def _(q, k, v, past, decay):
    out, _ = retention(q, k, v, past, decay)
    return out, retention(q, k, v, 0 * past, decay)[1]


@retention.mistake("the final state is transposed into place")
def _(q, k, v, past, decay):
    out, state = retention(q, k, v, past, decay)
    return out, state.mT.reshape(state.shape)


@retention.mistake("all heads decay like the first")
def _(q, k, v, past, decay):
    return retention(q, k, v, past, decay[:1].expand_as(decay))


@retention.mistake("the decay is rounded to bfloat16")
def _(q, k, v, past, decay):
    return retention(q, k, v, past, decay.to(torch.bfloat16).double())


@retention.mistake("nothing decays")
def _(q, k, v, past, decay):
    return retention(q, k, v, past, torch.ones_like(decay))


@retention.mistake("each chunk of 16 starts from nothing")
def _(q, k, v, past, decay):
    def step(n, state, q_n, gamma, write):
        state = (gamma * state if n % 16 or n == 0 else 0 * state) + write
        return q_n @ state, state

    return _steps(q, k, v, past, decay, step)


@retention.mistake("the state decays once too often at each edge of 16")
def _(q, k, v, past, decay):
    def step(n, state, q_n, gamma, write):
        state = gamma * (state if n % 16 or n == 0 else gamma * state) + write
        return q_n @ state, state

    return _steps(q, k, v, past, decay, step)


@retention.mistake("a last ragged chunk of 16 is dropped")
def _(q, k, v, past, decay):
    whole = max(1, q.shape[2] // 16 * 16)
    out, state = retention(q[:, :, :whole], k[:, :, :whole], v[:, :, :whole], past, decay)
    return torch.cat([out, 0 * v[:, :, whole:]], 2), state


@retention.mistake("scores are scaled by d^-1/2")
def _(q, k, v, past, decay):
    return retention(q * q.shape[-1] ** -0.5, k, v, past, decay)


@retention.mistake("backward stops at the past")
def _(q, k, v, past, decay):
    return retention(q, k, v, past.detach(), decay)


@retention.mistake("backward stops at the final state")
def _(q, k, v, past, decay):
    out, state = retention(q, k, v, past, decay)
    return out, state.detach()


@retention.mistake("backward decays one step too late")
def _(q, k, v, past, decay):
    right, state = retention(q, k, v, past, decay)
    wrong, _ = retention(q, k / decay[:, None, None].clamp(min=0.1), v, past, decay)
    return backward_of(right, wrong), state


@retention.mistake("a token sees one of the future")
def _(q, k, v, past, decay):
    out, state = retention(q, k, v, past, decay)
    next_key, next_value = (torch.cat([x[:, :, 1:], 0 * x[:, :, :1]], 2) for x in (k, v))
    return out + (q * next_key).sum(-1, keepdim=True) * next_value, state


@retention.mistake("the last token of each chunk of 16 is not handed on")
def _(q, k, v, past, decay):
    def step(n, state, q_n, gamma, write):
        read = gamma * state + write
        return q_n @ read, gamma * state if n % 16 == 15 and n + 1 < q.shape[2] else read

    return _steps(q, k, v, past, decay, step)


@retention.mistake("a last ragged chunk decays as a whole one of 16")
def _(q, k, v, past, decay):
    out, state = retention(q, k, v, past, decay)
    return out, decay[:, None, None] ** (-q.shape[2] % 16) * state


@retention.mistake("the final state has the last token twice")
def _(q, k, v, past, decay):
    out, state = retention(q, k, v, past, decay)
    return out, state + k[:, :, -1, :, None] * v[:, :, -1, None, :]


@retention.mistake("all rows start from the past of the first")
def _(q, k, v, past, decay):
    return retention(q, k, v, past[:1].expand_as(past), decay)


@retention.mistake("all rows read the state of the first beyond the first chunk of 64")
def _(q, k, v, past, decay):
    def step(n, state, q_n, gamma, write):
        state = gamma * (state[:1].expand_as(state) if n == 64 else state) + write
        return q_n @ state, state

    return _steps(q, k, v, past, decay, step)[0], retention(q, k, v, past, decay)[1]


@retention.mistake("rows beyond the 64th start from the past of the first")
def _(q, k, v, past, decay):
    rows = torch.arange(len(q))
    return retention(q, k, v, past[torch.where(rows < 64, rows, 0)], decay)


@retention.mistake("heads beyond the 16th decay like the first")
def _(q, k, v, past, decay):
    heads = torch.arange(len(decay))
    return retention(q, k, v, past, decay[torch.where(heads < 16, heads, 0)])


@retention.mistake("values beyond the 128th are not written")
def _(q, k, v, past, decay):
    return retention(q, k, v * (torch.arange(v.shape[-1]) < 128), past, decay)


@retention.mistake("features beyond the 64th are not read")
def _(q, k, v, past, decay):
    out, _ = retention(q[..., :64], k[..., :64], v, past[:, :, :64], decay)
    return out, retention(q, k, v, past, decay)[1]


@retention.mistake("the gradient of the past misses the final state")
def _(q, k, v, past, decay):
    return retention(q, k, v, past, decay)[0], retention(q, k, v, past.detach(), decay)[1]


@retention.mistake("the gradient of the past misses the outputs")
def _(q, k, v, past, decay):
    return retention(q, k, v, past.detach(), decay)[0], retention(q, k, v, past, decay)[1]


@retention.mistake("the gradient of the past has decayed once too little")
def _(q, k, v, past, decay):
    shown = past / decay[:, None, None].clamp(min=0.1)
    return retention(q, k, v, backward_of(past, shown), decay)


@retention.mistake("backward does not hand the gradient from chunk to chunk of 16")
def _(q, k, v, past, decay):
    def step(n, state, q_n, gamma, write):
        state = gamma * (state if n % 16 or n == 0 else state.detach()) + write
        return q_n @ state, state

    return _steps(q, k, v, past, decay, step)


@retention.mistake("backward leaves a last ragged chunk of 16 without gradients")
def _(q, k, v, past, decay):
    whole = q.shape[2] // 16 * 16
    inside = (torch.arange(q.shape[2]) < whole)[:, None] | (whole == 0)
    return retention(*(torch.where(inside, x, x.detach()) for x in (q, k, v)), past, decay)


@retention.mistake("features beyond the 128th are not handed on beyond the first chunk of 64")
def _(q, k, v, past, decay):
    def step(n, state, q_n, gamma, write):
        state = gamma * (state * (torch.arange(state.shape[-2]) < 128)[:, None] if n == 64 else state) + write
        return q_n @ state, state

    return _steps(q, k, v, past, decay, step)[0], retention(q, k, v, past, decay)[1]


@retention.mistake("the state is lost beyond the 512th step")
def _(q, k, v, past, decay):
    def step(n, state, q_n, gamma, write):
        state = gamma * (0 * state if n == 512 else state) + write
        return q_n @ state, state

    return _steps(q, k, v, past, decay, step)[0], retention(q, k, v, past, decay)[1]
