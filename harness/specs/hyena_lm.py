"""A language model of Hyena operators of order 2, with implicit filters (Poli et al. 2023, arXiv:2302.10866, section 3).

The operator is that of `hyena_operator`: y = q * (filter conv (k * v)), with a short filter over each of q, k and v before.
Where papers and libraries disagree, this side is taken:
- Order 2 is that of the official code (safari): two gates and one long filter.
- Time is i / (t - 1) for tap i, for a model that is trained at length t: the code's `l_max`. The code makes l_max taps and cuts
  longer inputs silently; here the same functions of time go on, and there is no longest input.
- Features of time are time itself, then cosines, then minus sines of 8 bands from 1e-4 to 7, at 2 pi i / t; three hidden layers
  of 16, each followed by a sine whose learned frequencies all three share; the last matrix has no bias.
- The window is exp(-|delta| time), with delta from log(0.01) / 1.5 to log(0.01) / 0.3 over the channels, and nothing is added.
- q, k, v and the output have a matrix each and no bias, as the other models have.
The skeleton is `_decoder`.
"""

import math
from functools import partial

import torch
from torch import Tensor

from harness.spec import Bunch, Case, spec
from harness.specs._decoder import CONTRACT, PARAMETERS, decoder, give_laws
from harness.specs._mixer import own
from harness.specs._transformer import NO_POSITIONS
from harness.specs.hyena_operator import convolve, hyena_operator, short_convolution

FILTERS = """
    blocks.*.mixer.short.weight[3 d 3], blocks.*.mixer.short.bias[3 d], blocks.*.mixer.skip[d]
    blocks.*.mixer.filter.frequency[16]
    blocks.*.mixer.filter.layers.0.weight[16 17], blocks.*.mixer.filter.layers.0.bias[16]
    blocks.*.mixer.filter.layers.1.weight[16 16], blocks.*.mixer.filter.layers.1.bias[16]
    blocks.*.mixer.filter.layers.2.weight[16 16], blocks.*.mixer.filter.layers.2.bias[16]
    blocks.*.mixer.filter.last.weight[d 16]
"""
CASES = {
    "plain": {},
    "one_token": {"n": 1},
    "two_tokens": {"n": 2, "l": 1},  # shorter than the short filter
    "beyond": {"t": 17},  # longer than what it is trained at; a t of which there is no half
    "power_of_two": {"n": 32, "t": 32, "l": 1},  # a transform that wraps around
    "long": {"n": 130, "t": 100, "b": 1, "l": 1},
    "six_layers": {"l": 6, "n": 5, "b": 1, "d": 8, "f": 8},  # every fourth layer, or every sixth, is of another kind
    "wide": {"d": 96, "n": 11, "l": 1},
}


@spec(CONTRACT, parameters=PARAMETERS + FILTERS, cases=CASES, b=3, n=37, d=24, f=40, v=29, l=2)
def hyena_lm(ids: Tensor, parameters: dict[str, Tensor], *, t: int = 40) -> Tensor:
    return _with(ids, parameters, t)


def time_features(n: int, t: int, device: torch.device | None = None) -> Tensor:
    """[n 17]: time, cosines and minus sines."""
    step = torch.arange(n, dtype=torch.float64, device=device)[:, None]
    angle = torch.linspace(1e-4, 7, 8, dtype=torch.float64, device=device) * (2 * math.pi / t) * step
    return torch.cat([step / (t - 1), angle.cos(), -angle.sin()], -1)


def window(n: int, t: int, d: int, device: torch.device | None = None) -> Tensor:
    """[n d]: how much of each tap is left."""
    fading = torch.linspace(math.log(0.01) / 1.5, math.log(0.01) / 0.3, d, dtype=torch.float64, device=device)
    return torch.exp(fading * torch.arange(n, dtype=torch.float64, device=device)[:, None] / (t - 1))


def filters(n: int, t: int, project, features=time_features, faded=window, sine=torch.sin) -> Tensor:
    """n taps of the filter of each channel [d n]."""
    frequency = own(project, "filter.frequency")
    hidden = features(n, t, frequency.device)
    for layer in ("filter.layers.0", "filter.layers.1", "filter.layers.2"):
        hidden = sine(frequency * project(hidden, layer))
    taps = project(hidden, "filter.last")
    return (taps * faded(n, t, taps.shape[1], taps.device)).mT


def _with(ids, parameters, t, taps=filters, operator=hyena_operator):
    def mix(x, project):
        projected = torch.stack([project(x, name).mT for name in "qkv"], 1)
        long = taps(x.shape[1], t, project)[None]
        out = operator(
            projected, *(own(project, name) for name in ("short.weight", "short.bias")), long, own(project, "skip")[None]
        )
        return project(out.mT, "o")

    return decoder(ids, parameters, mix)


EQUIVALENT = NO_POSITIONS | {
    "time_features: torch.cat([step / (t - 1), angle.cos(), -angle.sin()], -1)"
    " -> torch.cat([step / (t - 1), angle.cos(), -angle.sin()], 1)": "features have two axes: the last is axis 1",
    "time_features: torch.linspace(0.0001, 7, 8, dtype=torch.float64, device=device)"
    " -> torch.linspace(0.000101, 7, 8, dtype=torch.float64, device=device), bfloat16": (
        "one sine, less than 0.001 i / t, moves by a hundredth of that: bfloat16 rounds far more off the other features"
    ),
    **dict.fromkeys(
        (
            "window: math.log(0.01) -> math.log(0.0101), bfloat16",
            "window: math.log(0.01) -> math.log(0.0101) (2), bfloat16",
            "window: math.log(0.01) / 1.5 -> math.log(0.01) / 1.5150000000000001, bfloat16",
            "window: math.log(0.01) / 0.3 -> math.log(0.01) / 0.303, bfloat16",
        ),
        "it moves no window by more than 0.4 per cent of its largest value: bfloat16 rounds as much away",
    ),
}

give_laws(hyena_lm)


@hyena_lm.fades
def _(k: Tensor, case: Case, parameters: dict[str, Tensor]) -> Tensor:
    """The window of the slowest channel; the filter that it multiplies is learned."""
    return window(int(k.max()) + 1, case.t, case.d)[k.long()].amax(1)


@hyena_lm.work()
def _(case: Case) -> float:
    """Without the convolutions, and without the filters, which no token makes."""
    return hyena_lm.products(case, lambda name: 0 if ".filter." in name or ".short." in name else case.n)


@hyena_lm.family
def large(x: Bunch, case: Case, rng: torch.Generator):
    """One token is heard, so that outputs are taps; and filters hear time and the slowest sine above all, and enlarge them."""
    heard = torch.ones(17, dtype=torch.float64)
    heard[0], heard[9] = 32, 40_000
    gates = (torch.arange(3) == 0)[:, None]
    louder = {".norm1.bias": 0, "short.bias": 4 * gates, "mixer.o.weight": 4, "filter.last.weight": 4}
    louder |= {"layers.0.weight": heard, "layers.1.weight": 4, "layers.2.weight": 4}
    return {
        "ids": torch.where(torch.arange(case.n) > 0, x.ids.clamp(min=1), 0),
        "embedding.weight": x["embedding.weight"] * (torch.arange(case.v) == 0)[:, None],
        **{name: t * factor for name, t in x.items() for end, factor in louder.items() if name.endswith(end)},
    }


def _mistaken(name: str, **parts) -> None:
    hyena_lm.mistake(name)(lambda ids, parameters, *, t: _with(ids, parameters, t, **parts))


def _future_too(projected, short, short_bias, filter, skip):
    gate, k, v = short_convolution(projected, short, short_bias).unbind(1)
    return gate * (convolve(filter[0], k * v) + convolve(filter[0], (k * v).flip(-1)).flip(-1) + skip[0][:, None] * k * v)


def _gates_exchanged(projected, *rest):
    return hyena_operator(projected[:, [1, 0, 2]], *rest)


def _short_turned(projected, short, *rest):
    return hyena_operator(projected, short.flip(-1), *rest)


def _no_skip(projected, short, short_bias, filter, skip):
    return hyena_operator(projected, short, short_bias, filter, 0 * skip)


def _wraps(projected, short, short_bias, filter, skip):
    gate, k, v = short_convolution(projected, short, short_bias).unbind(1)
    n = projected.shape[-1]
    long = torch.fft.irfft(torch.fft.rfft(filter[0], n) * torch.fft.rfft(k * v, n), n)
    return gate * (long + skip[0][:, None] * k * v)


def _again(n, t, project):
    return filters(t, t, project)[:, torch.arange(n) % t]


def _of_an_even_t(n, t, device):
    return torch.cat([time_features(n, t)[:, :1], time_features(n, t // 2 * 2)[:, 1:]], 1)


def _none_in_every(count):
    """One layer in so many has no long filter."""

    def taps(n, t, project):
        layer = int(project.keywords["name"].split(".")[1])
        return filters(n, t, project) * ((layer + 1) % count != 0)

    return taps


_mistaken("sees the future", operator=_future_too)
_mistaken("the convolution wraps around", operator=_wraps)
_mistaken("the two gates are exchanged", operator=_gates_exchanged)
_mistaken("the short filter meets the newest token first", operator=_short_turned)
_mistaken("there is no skip", operator=_no_skip)
_mistaken("filters do not fade", taps=partial(filters, faded=lambda n, t, d, device: torch.ones(1, d)))
_mistaken("all filters fade alike", taps=partial(filters, faded=lambda n, t, d, device: window(n, t, d)[:, :1]))
_mistaken("time runs to the end of the input", taps=lambda n, t, project: filters(n, max(2, n), project))
_mistaken("time is i / t", taps=partial(filters, faded=lambda n, t, d, device: window(n, t + 1, d)))
_mistaken("filters begin again where the training ends", taps=_again)
_mistaken("every fourth layer has no long filter", taps=_none_in_every(4))
_mistaken("every sixth layer has no long filter", taps=_none_in_every(6))
_mistaken("bands repeat after an even number of steps", taps=partial(filters, features=_of_an_even_t))
_mistaken("filters have tanh in place of sines", taps=partial(filters, sine=torch.tanh))
_mistaken(
    "bands are without the time",
    taps=partial(filters, features=lambda n, t, device: time_features(n, t) * (torch.arange(17) > 0)),
)
