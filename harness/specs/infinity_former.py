"""The infinity-former, a transformer with a continuous memory of what is past (Martins et al. 2022, arXiv:2109.00301, section 3).

The input is cut into segments. In every layer each token attends to those of its segment before it, and to the memory: a
signal over [0, 1] that is a sum of c Gaussians, fitted to all states of the segments before. It looks at the memory with a
Gaussian of its own, and hears the expected value of the signal under it; both are added. After each segment the signal is
sampled, squeezed into [0, tau], and fitted anew together with the states of the segment, which take the rest.

Where the paper and its code (deep-spin/infinite-former, GPT-2) disagree, or leave it open, this side is taken:
- A segment has t // 4 tokens, for a model that is trained at length t. The code's have 512. Nothing else of the past is seen.
- Memory is made of what enters attention, after the norm. Its keys, values and queries come of the same matrices as those of
  short attention, and the sum of both goes through the one output matrix; the code gives the memory three matrices more.
- Positions are rotary within a segment, those of `transformer_rope`. The memory is looked at with queries that are not turned.
- Centres are c / 2 points from 0 to 1, ends included, each for two widths: 2.5 / c and 5 / c, which are the code's 0.005 and
  0.01 at its 512. The grid of the first width stands first.
- State i of L stands at i / L, i = 1 ... L (paper); the code's first fit has them half a step earlier, and adds zeros outside.
- As many points are sampled as a segment has tokens (512 of each in the code). Point i of the old comes to tau i / L.
- Sticky memories: points are where the attention of the last segment has been, by a histogram over bins; they are spread
  evenly in the new signal (code), so that what is looked at gets more room. The code draws them; here they are the quantiles
  (i - 1/2) / L, and a hundredth of the histogram is even, so that there is one answer. Without: point i / L.
- The expectation is over the whole line (closed form), the variance at least 1e-4, lambda 0.5: the code's.
- No gradient passes to what was remembered before the newest segment, nor to where points are taken (code).
- Weights that make mean and variance of scores have no bias and are the same for all heads (code). There is no KL term here.
"""

import math
from typing import Any

import torch
from torch import Tensor

from harness.spec import Bunch, Case, spec
from harness.specs._decoder import CONTRACT, PARAMETERS, SIZES, decoder, give_laws, join, split
from harness.specs._mixer import own
from harness.specs._transformer import NO_POSITIONS
from harness.specs.attention import attention
from harness.specs.rotary import rotary

LOOKING = "blocks.*.mixer.mean.weight[1 c], blocks.*.mixer.variance.weight[1 c]"
CASES: dict[str, dict[str, Any]] = {
    "plain": {"n": 43},
    "one_token": {"n": 1},
    "one_segment": {"n": 8, "t": 32},
    "one_token_more": {"n": 9, "t": 32},
    "segments_of_one": {"n": 5, "t": 4, "l": 1},
    "many_segments": {"n": 46, "t": 23, "b": 1, "l": 1},  # ten of them
    "long_segments": {"n": 141, "t": 280, "b": 1, "h": 2, "d": 8, "f": 8, "l": 1},  # rows beyond a tile
    "evenly": {"n": 22, "t": 32, "sticky": False, "l": 1},
    "long_memory": {"n": 22, "t": 32, "tau": 0.8, "l": 1, "b": 1},
    "two_gaussians": {"n": 13, "t": 16, "c": 2, "l": 1},
    "many_gaussians": {"n": 19, "t": 32, "c": 40, "b": 1},
    "six_layers": {"n": 9, "t": 32, "l": 6, "b": 1, "h": 2, "d": 8, "f": 8},  # every fourth, or every sixth, is of another kind
    "one_head": {"n": 19, "t": 32, "h": 1, "d": 12},
    "wide_heads": {"n": 11, "t": 16, "h": 2, "d": 96, "l": 1},
}
RIDGE = 0.5
LEAST = 1e-4
BINS = 32
EVEN = 0.01


@spec(CONTRACT, parameters=PARAMETERS + LOOKING, cases=CASES, **SIZES, c=16)
def infinity_former(
    ids: Tensor, parameters: dict[str, Tensor], *, h: int = 4, t: int = 64, tau: float = 0.5, sticky: bool = True
) -> Tensor:
    return _with(ids, parameters, h, t // 4, tau, quantiles if sticky else evenly)


def _with(ids, parameters, h, size, tau, points, *, turned=rotary, look=None, read=None, remember=None, visibility="causal"):
    def mix(x, project):
        weights = own(project, "mean.weight").flatten(), own(project, "variance.weight").flatten()
        memory, out = None, []
        for states in x.split(size, 1):
            position = torch.arange(states.shape[1], device=x.device)
            q, k, v = (split(project(states, name), h) for name in "qkv")
            heard = attention(turned(q, position), turned(k, position), v, visibility=visibility)
            place = None
            if memory is not None:
                keys, values = (split(project(memory, name), h) for name in "kv")
                mean, variance = (look or gaze)(q, keys, *weights)
                heard = heard + (read or expected)(mean, variance, values)
                place = points(mean.detach(), variance.detach(), size)
            out.append(join(heard))
            memory = (remember or extended)(memory, place, states, tau, own(project, "mean.weight").shape[1])
        return project(torch.cat(out, 1), "o")

    return decoder(ids, parameters, mix)


def gaussian(place: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """The density at a place."""
    return torch.exp(-(place - mean).square() / (2 * variance)) / (2 * math.pi * variance).sqrt()


def grid(c: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Centre and variance [c] of each basis function."""
    centre = torch.linspace(0, 1, c // 2, dtype=like.dtype, device=like.device)
    width = torch.ones_like(centre) / c
    return torch.cat([centre, centre]), torch.cat([2.5 * width, 5 * width]).square()


def basis(place: Tensor, c: int) -> Tensor:
    """place[...] -> the basis functions there [... c]."""
    return gaussian(place[..., None], *grid(c, place))


def fitted(place: Tensor, states: Tensor, c: int) -> Tensor:
    """Coefficients [b c d] of the signal that is near states[b i d] at place[i]: ridge regression without intercept."""
    functions = basis(place, c)
    square = functions.mT @ functions + RIDGE * torch.eye(c, dtype=place.dtype, device=place.device)
    return torch.linalg.solve(square, functions.mT) @ states


def evenly(mean: Tensor | None, variance: Tensor | None, size: int) -> Tensor:
    """Places [size] up to 1."""
    return (torch.arange(size, dtype=torch.float64, device=None if mean is None else mean.device) + 1) / size


def quantiles(mean: Tensor, variance: Tensor, size: int) -> Tensor:
    """Places [b size] where Gaussians of this mean and variance [b h n] have their mass: quantiles of a histogram over [0, 1]."""
    edge = torch.arange(BINS + 1, dtype=mean.dtype, device=mean.device) / BINS
    below = torch.erf((edge - mean[..., None]) / (2 * variance[..., None]).sqrt()).sum([1, 2])
    mass = below.diff() / (below[:, -1:] - below[:, :1])
    mass = (1 - EVEN) * mass + EVEN / BINS
    before = mass.cumsum(-1) - mass
    level = (torch.arange(size, dtype=mean.dtype, device=mean.device) + 0.5) / size
    filled = ((level[:, None] - before[:, None]) / mass[:, None]).clamp(0, 1)
    return filled.sum(-1) / BINS


def extended(memory: Tensor | None, place: Any, states: Tensor, tau: float, c: int) -> Tensor:
    """The memory [b c d] with the states of one more segment [b i d]: what it had at `place` is squeezed into [0, tau]."""
    new = evenly(None, None, states.shape[1]).to(states.device)
    if memory is None:
        return fitted(new, states, c)
    old = basis(place, c) @ memory.detach()
    kept = evenly(None, None, old.shape[1]).to(states.device)
    return fitted(torch.cat([tau * kept, tau + (1 - tau) * new]), torch.cat([old, states], 1), c)


def gaze(q: Tensor, keys: Tensor, of_mean: Tensor, of_variance: Tensor) -> tuple[Tensor, Tensor]:
    """q[b h n e], keys of the memory [b h c e] -> mean and variance [b h n] of where it looks."""
    score = q @ keys.mT * q.shape[-1] ** -0.5
    variance = torch.nn.functional.softplus(score @ of_variance)
    return torch.sigmoid(score @ of_mean), variance.clamp(min=LEAST)


def expected(mean: Tensor, variance: Tensor, values: Tensor) -> Tensor:
    """The expected value [b h n e] of the signal with these coefficients [b h c e], under Gaussians [b h n]."""
    centre, own_variance = grid(values.shape[2], mean)
    return gaussian(mean[..., None], centre, variance[..., None] + own_variance) @ values


EQUIVALENT = NO_POSITIONS | {
    "grid: 2.5 * width -> -2.5 * width": "it is squared",
    "quantiles: torch.erf((edge - mean[..., None]) / (2 * variance[..., None]).sqrt()).sum([1, 2])"
    " -> torch.erf((edge - mean[..., None]) / (2 * variance[..., None]).sqrt()).mean([1, 2])": "the mass is brought to 1",
    "quantiles: mass.cumsum(-1) -> mass.cumsum(1)": "the mass has two axes",
    **dict.fromkeys(
        (
            "BINS: 32 -> 33, bfloat16",
            "BINS: 32 -> 31, bfloat16",
            "EVEN: 0.01 -> 0.0101, bfloat16",
            "EVEN: 0.01 -> -0.01, bfloat16",
            "quantiles: BINS + 1 -> BINS + 2, bfloat16",
            "quantiles: (1 - EVEN) * mass + EVEN / BINS -> (1 - EVEN) * mass - EVEN / BINS, bfloat16",
            "quantiles: torch.erf((edge - mean[..., None]) / (2 * variance[..., None]).sqrt()).sum([1, 2])"
            " -> torch.tanh((edge - mean[..., None]) / (2 * variance[..., None]).sqrt()).sum([1, 2]), bfloat16",
            "quantiles: 2 * variance[..., None] -> 3 * variance[..., None], bfloat16",
            "quantiles: 2 * variance[..., None] -> 1 * variance[..., None], bfloat16",
            "quantiles: mass = (1 - EVEN) * mass + EVEN / BINS -> (dropped), bfloat16",
            "quantiles: 1 - EVEN -> 1 + EVEN, bfloat16",
            "quantiles: torch.arange(size, dtype=mean.dtype, device=mean.device) + 0.5"
            " -> torch.arange(size, dtype=mean.dtype, device=mean.device) + 0.505, bfloat16",
        ),
        "points are moved by less than bfloat16 moves the looks they are taken from; float32 tells it",
    ),
    **dict.fromkeys(
        (
            "RIDGE: 0.5 -> 0.505, bfloat16",
            "LEAST: 0.0001 -> 0.000101, bfloat16",
            "LEAST: 0.0001 -> -0.0001, bfloat16",
            "gaze: variance.clamp(min=LEAST) -> variance, bfloat16",
            "grid: 2.5 * width -> 2.525 * width, bfloat16",
            "gaze: q.shape[-1] ** (-0.5) -> q.shape[-1] ** (-0.505), bfloat16",
        ),
        "the signal, or a look, changes by some per cent of its finest part: bfloat16 rounds as much away; float32 tells it",
    ),
}

give_laws(infinity_former)


@infinity_former.family
def staring(x: Bunch, case: Case, rng: torch.Generator):
    """Some looks are narrow, others wide, all over the memory: it matters where its points are taken."""
    more = {"mixer.mean.weight": 8, "mixer.variance.weight": 30}
    return {name: more[end] * x[name] for name in x for end in more if name.endswith(end)}


@infinity_former.law
def what_fits_into_one_segment_does_not_know_how_long_it_could_be(run, x: Bunch, rng):
    n = x.ids.shape[1]
    return run(x, t=4 * n).logits, run(x, t=4 * n + rng.randrange(4, 40)).logits


@infinity_former.law(when=lambda case: case.n > case.t // 4)
def every_segment_hears_the_first_token(run, x: Bunch, rng):
    """Through memory alone, where no token of the first segment is seen: in how many rows any logit differs."""
    other = torch.cat([(x.ids[:, :1] + 1) % x["embedding.weight"].shape[0], x.ids[:, 1:]], 1)
    heard = (run(x).logits != run(x, ids=other).logits).any(-1).double()
    return heard, torch.ones_like(heard)


@infinity_former.law(when=lambda case: case.n > 2 * (case.t // 4) and case.l == 1)
def gradients_of_one_layer_pass_one_hand_over(run, x: Bunch, rng):
    """Tokens before the last two segments are of the lower half of the vocabulary, the others of the upper one."""
    segment = torch.arange(x.ids.shape[1]) // (run.case.t // 4)
    half = len(x["embedding.weight"]) // 2
    ids = torch.where(segment < segment[-1] - 1, x.ids % half, half + x.ids % half)
    answer = run.gradients(x, ids=ids, **{"logits.grad": torch.where((segment == segment[-1])[:, None], x["logits.grad"], 0)})
    far = answer.get("embedding.weight.grad", torch.zeros_like(x["embedding.weight"]))[:half]
    return far, torch.zeros_like(far)


def _mistaken(name: str, *, points=None, squeezed=lambda tau: tau, **parts) -> None:
    """A mistake in where the memory is sampled, in how far it is squeezed, or in how it is looked at, read or extended."""

    @infinity_former.mistake(name)
    def _(ids, parameters, *, h, t, tau, sticky):
        right = quantiles if sticky else evenly
        return _with(ids, parameters, h, t // 4, squeezed(tau), points or right, **parts)


def _gaze_turned_round(q, keys, of_mean, of_variance):
    return gaze(q, keys, of_variance, of_mean)


def _gaze_unscaled(q, keys, of_mean, of_variance):
    return gaze(q * q.shape[-1] ** 0.5, keys, of_mean, of_variance)


def _width_for_variance(q, keys, of_mean, of_variance):
    mean, variance = gaze(q, keys, of_mean, of_variance)
    return mean, variance.square()


def _at_the_mean(mean, variance, values):
    return basis(mean, values.shape[2]) @ values


def _with_points_for_functions(mean, variance, values):
    centre, _ = grid(values.shape[2], mean)
    return gaussian(mean[..., None], centre, variance[..., None]) @ values


def _within_the_memory(mean, variance, values):
    """The expectation over [0, 1] alone, by the midpoints of 64 strips."""
    place = (torch.arange(64, dtype=mean.dtype) + 0.5) / 64
    return gaussian(place, mean[..., None], variance[..., None]) / 64 @ (basis(place, values.shape[2]) @ values)


def _of_the_last_segment(memory, place, states, tau, c):
    return extended(None, None, states, tau, c)


def _new_before_old(memory, place, states, tau, c):
    return extended(memory, place, states.flip(1), tau, c)


def _anew_after_eight():
    """The memory of the ninth segment is again that of a first one."""
    count = 0

    def remember(memory, place, states, tau, c):
        nonlocal count
        count = 0 if memory is None else count + 1
        return extended(memory if count < 8 else None, place, states, tau, c)

    return remember


def _with_all_gradients(memory, place, states, tau, c):
    if memory is None:
        return extended(memory, place, states, tau, c)
    new, old = evenly(None, None, states.shape[1]), basis(place, c) @ memory
    kept = evenly(None, None, old.shape[1])
    return fitted(torch.cat([tau * kept, tau + (1 - tau) * new]), torch.cat([old, states], 1), c)


def _without_gradients(memory, place, states, tau, c):
    return extended(memory, place, states.detach(), tau, c)


def _from_zero(memory, place, states, tau, c):
    """States stand at i / L, i = 0 ... L - 1."""
    if memory is None:
        return fitted(evenly(None, None, states.shape[1]) - 1 / states.shape[1], states, c)
    return extended(memory, place, states, tau, c)


_mistaken("sees the future within a segment", visibility="full")
_mistaken("tokens have no positions", turned=lambda x, position: x)
_mistaken("places end with the 64th token", turned=lambda x, position: rotary(x, position.clamp(max=63)))
_mistaken("the memory is never read", read=lambda mean, variance, values: 0 * values[:, :, :1])
_mistaken("mean and variance are exchanged", look=_gaze_turned_round)
_mistaken("scores of the memory are not scaled", look=_gaze_unscaled)
_mistaken("softplus gives the width, not the variance", look=_width_for_variance)
_mistaken("the signal is read at the mean", read=_at_the_mean)
_mistaken("basis functions are read as points", read=_with_points_for_functions)
_mistaken("the expectation ends where the memory does", read=_within_the_memory)
_mistaken("only the last segment is remembered", remember=_of_the_last_segment)
_mistaken("memory begins anew after eight segments", remember=_anew_after_eight())
_mistaken("the states of a segment are remembered from the last to the first", remember=_new_before_old)
_mistaken("gradients pass all updates of the memory", remember=_with_all_gradients)
_mistaken("no gradient passes the memory", remember=_without_gradients)
_mistaken("the first states stand one place early", remember=_from_zero)
_mistaken("memories are not sticky", points=evenly)
_mistaken("the memory is squeezed a tenth too much", squeezed=lambda tau: 0.9 * tau)


@infinity_former.mistake("a segment is a quarter of t, rounded")
def _(ids, parameters, *, h, t, tau, sticky):
    return _with(ids, parameters, h, round(t / 4), tau, quantiles if sticky else evenly)


def _with_layers(name: str, count: int) -> None:
    @infinity_former.mistake(name)
    def _(ids, parameters, **options):
        quiet = [f"blocks.{i}.mixer.v.weight" for i in range(count - 1, 99, count)]
        return infinity_former(ids, {name: 0 * t if name in quiet else t for name, t in parameters.items()}, **options)


_with_layers("every fourth layer hears nothing", 4)
_with_layers("every sixth layer hears nothing", 6)
