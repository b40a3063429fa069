"""The Hyena operator (Poli et al. 2023, arXiv:2302.10866, definition 3.1), with its short and long filters given.

Where papers and libraries disagree, this side is taken:
- The order is that of the official code (safari): order s - 1 has s - 1 gates and f = s - 2 long filters; order 2 is
  x_0 * (h conv (x_1 * v)). The paper's form has a long filter before each gate, one more.
- Of the s blocks of the projection the values are the last; the gates are applied from the last to the first, x_0 at the end.
- The short filter has a bias and is what nn.Conv1d does, a correlation: its last tap meets the newest token.
- To each long convolution belongs a skip: h conv v + skip * v, where v is what went into the convolution.
- Filters stand as [filter channel]; the full code of safari reads the same bank as (channel, filter) when f > 1.
- Filters are at least as long as the input, which takes the first n of their m taps; nothing is wrapped around (safari's
  transforms are twice as long as the input) and no input is cut, as safari cuts those longer than its filter.
- The long convolutions are computed by Fourier transforms, as in the paper and its code. They leak rounding into every token
  from all the others, the future too, and the budget has it: 1e-16 of the largest here, 1e-7 in float32.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from harness.spec import Bunch, Case, backward_of, spec
from harness.specs._past import places


@spec(
    "projected[b s d n], short[s d 3], short_bias[s d], filter[f d m], skip[f d] -> out[b d n]",
    b=2,
    s=4,
    f=2,
    d=5,
    n=37,
    m=41,
    cases={
        "plain": {},
        "order_2": {"s": 3, "f": 1},
        "order_4": {"s": 5, "f": 3, "n": 19, "m": 19},
        "exact_filter": {"m": 37},  # as long as the input
        "much_longer_filter": {"m": 90, "n": 13},  # its first taps, not its last, and not resampled
        "one_step": {"n": 1},
        "two_steps": {"n": 2},  # shorter than the short filter
        "power_of_two": {"n": 64, "m": 64, "b": 1},  # a transform that wraps around; one row alone
        "long": {"s": 3, "f": 1, "n": 300, "m": 300, "d": 3},
        # Two filters beyond a tile of 64, a last token alone in its tile, whole tiles of channels and of taps.
        "long_order_3": {"b": 1, "n": 129, "m": 256, "d": 16},
        "wide": {"n": 9, "m": 9, "d": 140},  # what is done for the first tile of channels alone
        "many_rows": {"b": 70, "n": 3, "m": 3, "d": 1},  # rows beyond the first tile; a single channel
    },
)
def hyena_operator(projected: Tensor, short: Tensor, short_bias: Tensor, filter: Tensor, skip: Tensor) -> Tensor:
    *gates, v = short_convolution(projected, short, short_bias).unbind(1)
    for gate, h, bypass in zip(reversed(gates[1:]), filter, skip, strict=True):
        v = gate * v
        v = convolve(h, v) + bypass[:, None] * v
    return gates[0] * v


def short_convolution(x: Tensor, short: Tensor, bias: Tensor) -> Tensor:
    """Each channel with the two tokens before: [b s d n]."""
    n = x.shape[-1]
    taps = torch.stack([F.pad(x, (2, 0))[..., i : i + n] for i in range(3)], -1)
    return torch.einsum("bsdnt,sdt->bsdn", taps, short) + bias[..., None]


def convolve(h: Tensor, v: Tensor) -> Tensor:
    """Sum over i of h_i v_(t - i), for h [d m] and v [b d n]: by transforms so long that nothing wraps around.

    RuntimeError where m < n: there is no filter for the last tokens."""
    n = v.shape[-1]
    return torch.fft.irfft(torch.fft.rfft(h.narrow(-1, 0, n), 2 * n) * torch.fft.rfft(v, 2 * n), 2 * n)[..., :n]


EQUIVALENT = {
    "convolve: h.narrow(-1, 0, n) -> h.narrow(1, 0, n)": "h has two axes: the last is axis 1",
    "short_convolution: F.pad(x, (2, 0)) -> F.pad(x, (2, 1))": "no tap reads the last place",
}


def _scaled(x: Bunch, case: Case) -> dict[str, Tensor]:
    """Filters that fade at a speed of each channel's own, as implicit filters with a window do."""
    speed = torch.linspace(1.0, 6.0, case.d, dtype=torch.float64)
    window = torch.exp(-speed[:, None] * torch.arange(case.m) / case.m)
    return {"short": x.short / 3**0.5, "filter": x.filter * window * case.m**-0.5}


@hyena_operator.work(along=("n", "m"), b=1, s=3, f=1, d=64)
def _(case: Case) -> float:
    """Convolutions by real transforms of twice the length, 2.5 N log2 N each, or term by term where that is less."""
    transform = 2.5 * 2 * case.n * math.log2(2 * case.n)
    return case.d * case.f * min((2 * case.b + 1) * transform, case.b * case.n * (case.n + 1))


@hyena_operator.family
def normal(x: Bunch, case: Case, rng: torch.Generator):
    return _scaled(x, case)


@hyena_operator.family
def large(x: Bunch, case: Case, rng: torch.Generator):
    return {**_scaled(x, case), "projected": 1.5 * x.projected + 1, "short_bias": x.short_bias + 1}


@hyena_operator.family
def sharp(x: Bunch, case: Case, rng: torch.Generator):
    """A filter of few taps: each output is a few earlier inputs, as in recall."""
    few = torch.rand(case.f, case.d, case.m, generator=rng) < 3 / case.m
    return {"short": x.short / 3**0.5, "filter": torch.where(few, x.filter, 0.0)}


@hyena_operator.family
def needle(x: Bunch, case: Case, rng: torch.Generator):
    """Taps and tokens at edges of chunks, the last ones included; nothing fades."""

    def edges(n: int) -> Tensor:
        step = torch.arange(n)
        return (step % 16 == 0) | (step % 16 == 15) | (step == n - 1) | (step == case.n - 1)

    return {"short": x.short / 3**0.5, "filter": x.filter * edges(case.m), "projected": x.projected * edges(case.n)}


@hyena_operator.law(when=lambda case: case.n > 1)
def the_first_tokens_need_no_others(run, x: Bunch, rng):
    cut = rng.randrange(1, x.projected.shape[-1])
    return run(x).out[..., :cut], run(x, projected=x.projected[..., :cut]).out


@hyena_operator.law(when=lambda case: case.n > 1)
def the_future_is_invisible(run, x: Bunch, rng):
    left, right, whole = {}, {}, run(x).out
    for now in places(x.projected.shape[-1], rng, most=8):
        later = torch.arange(x.projected.shape[-1], device=x.projected.device) >= now
        changed = torch.where(later, -2 * x.projected.flip(-1), x.projected)
        name = f"out before {now}"
        left[name], right[name] = run(x, projected=changed).out[..., :now], whole[..., :now]
    return left, right


@hyena_operator.law(when=lambda case: case.m > case.n)
def taps_beyond_the_input_are_not_read(run, x: Bunch, rng):
    beyond = torch.arange(x.filter.shape[-1], device=x.filter.device) >= x.projected.shape[-1]
    return run(x).out, run(x, filter=torch.where(beyond, 99 * x.filter.flip(-1), x.filter)).out


@hyena_operator.law
def a_filter_of_one_tap_is_a_skip(run, x: Bunch, rng):
    first = torch.arange(x.filter.shape[-1], device=x.filter.device) == 0
    tap = torch.where(first, x.skip[..., None], torch.zeros_like(x.filter))
    return run(x, filter=tap, skip=torch.zeros_like(x.skip)).out, run(x, filter=torch.zeros_like(x.filter)).out


@hyena_operator.law
def twice_the_values_give_twice_the_output(run, x: Bunch, rng):
    values = torch.arange(x.projected.shape[1], device=x.projected.device) == x.projected.shape[1] - 1
    bias = x.short_bias.masked_fill(values[:, None], 0.0)
    doubled = torch.where(values[:, None, None], 2 * x.projected, x.projected)
    return 2 * run(x, short_bias=bias).out, run(x, short_bias=bias, projected=doubled).out


@hyena_operator.law(when=lambda case: case.b > 1)
def a_batch_is_its_rows(run, x: Bunch, rng):
    row = rng.randrange(x.projected.shape[0])
    return run(x).out[row : row + 1], run(x, projected=x.projected[row : row + 1]).out


@hyena_operator.law
def permuting_channels_permutes_the_output(run, x: Bunch, rng):
    order = rng.sample(range(x.skip.shape[1]), x.skip.shape[1])
    changes = {
        "projected": x.projected[:, :, order],
        **{name: x[name][:, order] for name in ("short", "short_bias", "filter", "skip")},
    }
    return run(x).out[:, order], run(x, **changes).out


def _toeplitz(h, n):
    """The matrix [d n n] of a causal convolution with h [d m]: entry (t, i) is h_(t - i)."""
    step = torch.arange(n)
    distance = step[:, None] - step
    return h[:, distance.clamp(min=0)].masked_fill(distance < 0, 0.0)


def _with_step(name: str, step) -> None:
    """A mistake of the long convolutions: `step(gate, h, skip, v) -> v`, for h [d m], skip [d 1] and v [b d n]."""

    def wrong(projected, short, short_bias, filter, skip):
        *gates, v = short_convolution(projected, short, short_bias).unbind(1)
        for gate, h, bypass in zip(reversed(gates[1:]), filter, skip, strict=True):
            v = step(gate, h, bypass[:, None], v)
        return gates[0] * v

    hyena_operator.mistake(name)(wrong)


def _wrapped(h, v, size):
    """A circular convolution of this size."""
    n = v.shape[-1]
    step = torch.arange(n)
    h = F.pad(h[:, :n], (0, size - n))
    return (h[:, (step[:, None] - step) % size] @ v[..., None]).squeeze(-1)


def _resampled(h, n):
    return h[:, (torch.arange(n) * h.shape[-1]) // n]


def _chunked(h, v):
    """Each chunk of 16 for itself."""
    step = torch.arange(v.shape[-1])
    same = step[:, None] // 16 == step // 16
    return ((_toeplitz(h, v.shape[-1]) * same) @ v[..., None]).squeeze(-1)


def _without_last_tap(h, n):
    return torch.cat([h[:, : max(1, n - 1)], 0 * h[:, max(1, n - 1) :]], -1)


def _but_for_one_alone(n):
    return (torch.arange(n) < n - 1) | (n % 64 != 1) | (n == 1)


_with_step("the convolution wraps around", lambda x, h, skip, v: _wrapped(h, x * v, v.shape[-1]) + skip * x * v)
_with_step(
    "the transform is half as long again as the input, and wraps around",
    lambda x, h, skip, v: _wrapped(h, x * v, v.shape[-1] + v.shape[-1] // 2) + skip * x * v,
)
_with_step(
    "the filter is correlated with the future", lambda x, h, skip, v: convolve(h, (x * v).flip(-1)).flip(-1) + skip * x * v
)
_with_step("the taps stand in reverse", lambda x, h, skip, v: convolve(h[:, : v.shape[-1]].flip(-1), x * v) + skip * x * v)
_with_step("the filter's last taps are taken", lambda x, h, skip, v: convolve(h[:, -v.shape[-1] :], x * v) + skip * x * v)
_with_step(
    "the filter is resampled to the input's length",
    lambda x, h, skip, v: convolve(_resampled(h, v.shape[-1]), x * v) + skip * x * v,
)
_with_step("the filter is one step late", lambda x, h, skip, v: convolve(F.pad(h, (1, 0)), x * v) + skip * x * v)
_with_step("the last tap is dropped", lambda x, h, skip, v: convolve(_without_last_tap(h, v.shape[-1]), x * v) + skip * x * v)
_with_step("each chunk of 16 is convolved for itself", lambda x, h, skip, v: _chunked(h, x * v) + skip * x * v)
_with_step("the skip is missing", lambda x, h, skip, v: convolve(h, x * v))
_with_step("the skip has no weight", lambda x, h, skip, v: convolve(h, x * v) + x * v)
_with_step("the skip carries what comes before the gate", lambda x, h, skip, v: convolve(h, x * v) + skip * v)
_with_step("the gate comes after the convolution", lambda x, h, skip, v: x * (convolve(h, v) + skip * v))
_with_step("all channels have the filter of the first", lambda x, h, skip, v: convolve(h[:1].expand_as(h), x * v) + skip * x * v)
_with_step("backward stops at the filter", lambda x, h, skip, v: convolve(h.detach(), x * v) + skip * x * v)
_with_step(
    "backward wraps around",
    lambda x, h, skip, v: backward_of(convolve(h, x * v), _wrapped(h, x * v, v.shape[-1])) + skip * x * v,
)


_with_step("inputs longer than 256 have no skip", lambda x, h, skip, v: convolve(h, x * v) + skip * x * v * (v.shape[-1] <= 256))
_with_step("whole tiles of 64 have no skip", lambda x, h, skip, v: convolve(h, x * v) + skip * x * v * (v.shape[-1] % 64 != 0))
_with_step("a single channel has no skip", lambda x, h, skip, v: convolve(h, x * v) + skip * x * v * (v.shape[1] > 1))
_with_step(
    "backward stops at the filter in a batch of one",
    lambda x, h, skip, v: convolve(h if len(v) > 1 else h.detach(), x * v) + skip * x * v,
)
_with_step(
    "the last tile of 16 channels has no skip where it is whole",
    lambda x, h, skip, v: (
        convolve(h, x * v) + skip * x * v * ((torch.arange(len(h)) < len(h) - 16) | (len(h) % 16 != 0))[:, None]
    ),
)
_with_step(
    "a last token alone in its tile of 64 is not convolved",
    lambda x, h, skip, v: convolve(h, x * v) * _but_for_one_alone(v.shape[-1]) + skip * x * v,
)
_with_step(
    "rows beyond the 64th have no skip",
    lambda x, h, skip, v: convolve(h, x * v) + skip * x * v * (torch.arange(len(v)) < 64)[:, None, None],
)


@hyena_operator.mistake("the gates are applied from the first to the last")
def _(projected, short, short_bias, filter, skip):
    order = [*reversed(range(projected.shape[1] - 1)), projected.shape[1] - 1]
    return hyena_operator(projected[:, order], short[order], short_bias[order], filter, skip)


@hyena_operator.mistake("the values are the first block")
def _(projected, short, short_bias, filter, skip):
    return hyena_operator(projected.roll(-1, 1), short.roll(-1, 0), short_bias.roll(-1, 0), filter, skip)


@hyena_operator.mistake("the last gate is missing")
def _(projected, short, short_bias, filter, skip):
    gate = torch.cat([torch.ones_like(short_bias[:1]), short_bias[1:]])
    short = torch.cat([0 * short[:1], short[1:]])
    return hyena_operator(projected, short, gate, filter, skip)


@hyena_operator.mistake("the filters are applied from the last to the first")
def _(projected, short, short_bias, filter, skip):
    return hyena_operator(projected, short, short_bias, filter.flip(0), skip.flip(0))


@hyena_operator.mistake("the bank of filters is read as channel, filter")
def _(projected, short, short_bias, filter, skip):
    f, d, m = filter.shape
    return hyena_operator(projected, short, short_bias, filter.reshape(d, f, m).transpose(0, 1), skip)


@hyena_operator.mistake("the short filter is turned round")
def _(projected, short, short_bias, filter, skip):
    return hyena_operator(projected, short.flip(-1), short_bias, filter, skip)


@hyena_operator.mistake("the short filter is centred")
def _(projected, short, short_bias, filter, skip):
    return hyena_operator(F.pad(projected, (0, 1))[..., 1:], short, short_bias, filter, skip)


@hyena_operator.mistake("the short filter has no bias")
def _(projected, short, short_bias, filter, skip):
    return hyena_operator(projected, short, 0 * short_bias, filter, skip)


@hyena_operator.mistake("the short filter leaves the values alone")
def _(projected, short, short_bias, filter, skip):
    identity = torch.tensor([0.0, 0.0, 1.0], dtype=short.dtype).expand_as(short[:1])
    short = torch.cat([short[:-1], identity + 0 * short[-1:]])
    return hyena_operator(projected, short, torch.cat([short_bias[:-1], 0 * short_bias[-1:]]), filter, skip)


@hyena_operator.mistake("backward stops at the skip")
def _(projected, short, short_bias, filter, skip):
    return hyena_operator(projected, short, short_bias, filter, skip.detach())


@hyena_operator.mistake("inputs longer than 64 meet the first filter twice")
def _(projected, short, short_bias, filter, skip):
    return hyena_operator(projected, short, short_bias, filter if projected.shape[-1] <= 64 else filter[:1] + 0 * filter, skip)
