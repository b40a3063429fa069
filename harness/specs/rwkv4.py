"""RWKV-4, a language model of time mixing and channel mixing (Peng et al. 2023, arXiv:2305.13048, eq. 11-18).

Where papers and libraries disagree, this side is taken:
- Each part reads its own norm of the stream, and mixes it with that of the token before, zeros before the first: the shift
  comes after the norm, as in the code. `mix` is the share of the token itself.
- Time mixing is that of `wkv` from no past at all; its `decay` is the code's `time_decay`, with w = -exp(decay).
- Channel mixing has relu squared, and a gate. It stands where the others have their feed-forward part, f wide inside; its gate
  is one matrix more, so that f = 3.5 d makes as many parameters as a transformer has with 4 d.
- A norm follows the embedding (`ln0` of the code), another stands before the head.
- Every layer has both parts (the option `ffnPre` has two channel mixings in the first), and no weights are rescaled.
- Norms have eps 1e-5.
"""

from functools import partial

import torch
from torch import Tensor

from harness.spec import Bunch, Case, spec
from harness.specs._decoder import CONTRACT, give_laws, layers, linear, norm, raised
from harness.specs.wkv import recurrence, speeds, wkv

PARAMETERS = """
    embedding.weight[v d], norm0.weight[d], norm0.bias[d]
    blocks.*.norm1.weight[d], blocks.*.norm1.bias[d]
    blocks.*.mixer.mix_k[d], blocks.*.mixer.mix_v[d], blocks.*.mixer.mix_r[d], blocks.*.mixer.decay[d], blocks.*.mixer.bonus[d]
    blocks.*.mixer.k.weight[d d], blocks.*.mixer.v.weight[d d], blocks.*.mixer.r.weight[d d], blocks.*.mixer.o.weight[d d]
    blocks.*.norm2.weight[d], blocks.*.norm2.bias[d]
    blocks.*.feed.mix_k[d], blocks.*.feed.mix_r[d]
    blocks.*.feed.up.weight[f d], blocks.*.feed.down.weight[d f], blocks.*.feed.r.weight[d d]
    norm.weight[d], norm.bias[d], head.weight[v d]
"""
CASES = {
    "plain": {},
    "one_token": {"n": 1},
    "two_tokens": {"n": 2},
    "long": {"n": 140, "b": 1, "l": 1},  # a state that is replaced, not carried, at the second of two chunks of 64
    "beyond_a_chunk": {"n": 140, "b": 2, "l": 2, "d": 8, "f": 8, "v": 5},  # a state that is another row's or layer's there
    "three_layers": {"l": 3, "n": 9, "b": 1},
    "seven_layers": {"l": 7, "n": 9, "b": 1, "d": 8, "f": 8},  # a stream that is halved after six, and weights are not
    "wide": {"d": 80, "n": 7, "l": 1},
}
NOBODY = -1e30  # the logarithm of a weight that stands for no past


@spec(CONTRACT, parameters=PARAMETERS, cases=CASES, b=3, n=19, d=24, f=40, v=29, l=2)
def rwkv4(ids: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    return _with(ids, parameters)


def before(x: Tensor) -> Tensor:
    """What stands before each token, zeros before the first."""
    return torch.cat([torch.zeros_like(x[:, :1]), x[:, :-1]], 1)


def squared(x: Tensor) -> Tensor:
    return torch.relu(x).square()


def _with(ids, parameters, *, shift=before, feed_shift=None, mean=wkv, activation=squared, gate=torch.sigmoid, first=norm):
    x = first(parameters["embedding.weight"][ids], parameters, "norm0.")
    for i in range(layers(parameters)):
        block = f"blocks.{i}."
        y = norm(x, parameters, block + "norm1.")
        x = x + time_mixing(y, shift(y), parameters, block + "mixer.", mean, gate)
        y = norm(x, parameters, block + "norm2.")
        x = x + channel_mixing(y, (feed_shift or shift)(y), parameters, block + "feed.", activation, gate)
    return linear(norm(x, parameters, "norm."), "head", parameters)


def mixed(x: Tensor, old: Tensor, share: Tensor) -> Tensor:
    return share * x + (1 - share) * old


def time_mixing(x, old, parameters, name, mean, gate):
    project = partial(linear, parameters=parameters, name=name)
    k, v, r = (project(mixed(x, old, parameters[f"{name}mix_{of}"]), of) for of in "kvr")
    nothing = torch.zeros_like(k[:, 0])
    out, _, _ = mean(k, v, parameters[name + "decay"], parameters[name + "bonus"], nothing, nothing + NOBODY)
    return project(gate(r) * out, "o")


def channel_mixing(x, old, parameters, name, activation, gate):
    project = partial(linear, parameters=parameters, name=name)
    hidden = activation(project(mixed(x, old, parameters[name + "mix_k"]), "up"))
    return gate(project(mixed(x, old, parameters[name + "mix_r"]), "r")) * project(hidden, "down")


EQUIVALENT = {
    "NOBODY: -1e+30 -> -1.01e+30": "either is no past at all",
    "time_mixing: torch.zeros_like(k[:, 0]) -> torch.ones_like(k[:, 0])": (
        "exp(1 - 1e30) is zero as well: no mean of the past is read where no past weighs anything"
    ),
    "time_mixing: k[:, 0] -> k[:, -1]": "only its shape is read, and every token has the same",
    **dict.fromkeys(
        ("linear: y if bias is None else y + bias -> y", "linear: y + bias -> y - bias"),
        "no matrix of this model has a bias",
    ),
}

give_laws(rwkv4)


@rwkv4.fades
def _(k: Tensor, case: Case, parameters: dict[str, Tensor]) -> Tensor:
    """As decays were learned."""
    slowest = min(float(parameters[f"blocks.{i}.mixer.decay"].exp().min()) for i in range(case.l))
    return torch.exp(-slowest * k)


@rwkv4.family
def normal(x: Bunch, case: Case, rng: torch.Generator):
    """Decays of all speeds, and shares around a half."""
    shares = {name: tensor + 0.5 for name, tensor in x.items() if ".mix_" in name}
    return shares | {name: tensor + speeds(case.d) for name, tensor in x.items() if name.endswith(".decay")}


@rwkv4.family
def large(x: Bunch, case: Case, rng: torch.Generator):
    """Keys beyond what an exponential can hold, in every other channel far below zero; all of them, the first too, which has no
    token before it to be mixed with."""
    unmixed = {name: 1 + 0 * x[name] for name in x if name.endswith("mixer.mix_k")}
    sign = 1.0 - 2 * (torch.arange(case.d) % 2)[:, None]
    return unmixed | raised(x, 200 / case.d * sign, "mixer.k.weight")


def _without_maximum(k, v, decay, bonus, mean, weight):
    heard = torch.exp(k.float())  # what it overflows in
    out, *state = wkv(heard.log().double(), v, decay, bonus, mean, weight)
    return out, *state


def _mistaken(name: str, **parts) -> None:
    rwkv4.mistake(name)(lambda ids, parameters: _with(ids, parameters, **parts))


def _late(k, v, decay, bonus, mean, weight):
    """All of the past weighs exp(w) times as much when it is read: the same as a current token that weighs exp(-w) times."""
    return recurrence(k, v, -decay.exp(), bonus + decay.exp(), mean, weight)


def _no_bonus(k, v, decay, bonus, mean, weight):
    return wkv(k, v, decay, 0 * bonus, mean, weight)


def _sees_the_future(k, v, decay, bonus, mean, weight):
    out, *state = wkv(k, v, decay, bonus, mean, weight)
    return (out + wkv(k.flip(1), v.flip(1), decay, bonus, mean, weight)[0].flip(1)) / 2, *state


def _decay_is_w(k, v, decay, bonus, mean, weight):
    return recurrence(k, v, decay.clamp(max=0), bonus, mean, weight)


def _past_of_zeros(k, v, decay, bonus, mean, weight):
    return wkv(k, v, decay, bonus, mean, 0 * mean)


def _of_another_row(k, v, decay, bonus, mean, weight):
    first, *state = wkv(k[:, :64], v[:, :64], decay, bonus, mean, weight)
    rest, *state = wkv(k[:, 64:], v[:, 64:], decay, bonus, *(each.flip(0) for each in state))
    return torch.cat([first, rest], 1), *state


def _faint_past(k, v, decay, bonus, mean, weight):
    return wkv(k, v, decay, bonus, mean, 0 * mean - 60)


_mistaken("sees the future", mean=_sees_the_future)
_mistaken("the newest of the past has faded once", mean=_late)
_mistaken("the current token has no bonus", mean=_no_bonus)
_mistaken("the decay is not put through the exponential", mean=_decay_is_w)
_mistaken("the past begins with a zero that weighs one", mean=_past_of_zeros)
_mistaken("the past begins with a zero that weighs e^-60", mean=_faint_past)
_mistaken("after 64 tokens a row goes on from the state of another", mean=_of_another_row)
_mistaken("the decay learns nothing", mean=lambda k, v, decay, *rest: wkv(k, v, decay.detach(), *rest))
_mistaken("keys are exponentiated as they are", mean=_without_maximum)
_mistaken("nothing is shifted", shift=lambda x: x)
_mistaken("channel mixing is not shifted", feed_shift=lambda x: x)
_mistaken("the first token is mixed with the last", shift=lambda x: x.roll(1, 1))
_mistaken("relu is not squared", activation=torch.relu)
_mistaken("the gates are tanh", gate=torch.tanh)
_mistaken("no norm follows the embedding", first=lambda x, parameters, name: x)


@rwkv4.mistake("the shares of a token and of the one before are exchanged")
def _(ids, parameters):
    return _with(ids, {name: 1 - tensor if ".mix_" in name else tensor for name, tensor in parameters.items()})


@rwkv4.mistake("the stream is halved after six layers")
def _(ids, parameters):
    """What is added to it then counts twice."""
    after = ("blocks.6.mixer.o.weight", "blocks.6.feed.down.weight")
    return _with(ids, {name: 2 * tensor if name in after else tensor for name, tensor in parameters.items()})
