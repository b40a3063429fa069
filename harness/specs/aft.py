"""The attention free transformer's operator (Zhai et al. 2021, arXiv:2105.14103, eq. 2): full, simple, local and causal.

Where papers and libraries disagree, this side is taken:
- n queries are the last n of m keys (lower right); the paper has n = m. Every query sees a key.
- AFT-local puts a bias of zero where |t - t'| >= window, and nothing else: such keys are seen, they are not hidden.
- AFT-simple is the case without `bias`. AFT-conv is the full form with a bias that depends on t - t' alone.
- `bias` is w itself; the paper's factors u v^T are a parametrisation of it. It is shared by all channels.
- Weights are relative to the largest exponent of each query and channel among the keys that it sees; unofficial code
  exponentiates keys as they are and overflows.
"""

import torch
from torch import Tensor

from harness.spec import Bunch, Case, spec
from harness.specs._past import places


@spec(
    "q[b n d], k[b m d], v[b m d], bias[n m]? -> out[b n d]",
    b=2,
    n=13,
    m=37,
    d=5,
    cases={
        "plain": {"bias": True},
        "simple": {"n": 37},
        "causal": {"bias": True, "causal": True, "n": 37},
        "causal_simple": {"causal": True, "n": 37},
        "longer_past": {"bias": True, "causal": True},  # upper-left alignment
        "simple_longer_past": {"causal": True, "b": 1},  # the same by other code: a running sum
        "simple_decode": {"causal": True, "n": 1},
        "simple_long": {"causal": True, "n": 65, "m": 129, "d": 2},
        "decode": {"bias": True, "causal": True, "n": 1},
        "one_query": {"bias": True, "n": 1},
        "local": {"bias": True, "window": 6, "n": 37},  # hidden instead of without bias
        "local_longer_past": {"bias": True, "causal": True, "window": 4},
        "local_decode": {"bias": True, "causal": True, "window": 4, "n": 1},
        "local_long": {"bias": True, "causal": True, "window": 16, "n": 65, "m": 129, "b": 1, "d": 2},  # a last key alone
        "window_beyond_all": {"bias": True, "window": 40, "n": 9, "m": 17},  # a band that leaves the keys on both sides
        "one_key": {"bias": True, "n": 1, "m": 1},
        "whole_tiles": {"bias": True, "n": 16, "m": 128, "b": 1, "d": 3},  # no ragged tile
        "causal_whole_tiles": {"bias": True, "causal": True, "n": 32, "m": 32, "d": 16},  # tiles of channels too
        "long": {"bias": True, "causal": True, "n": 20, "m": 300, "d": 3},
        # What is done for the first tiles alone.
        "many_queries": {"bias": True, "causal": True, "n": 150, "m": 150, "b": 1, "d": 2},
        "wide": {"bias": True, "n": 7, "m": 11, "d": 140},
        "many_rows": {"bias": True, "b": 70, "n": 3, "m": 5, "d": 1},  # rows beyond a tile; a single channel
    },
)
def aft(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, *, causal: bool = False, window: int = 0) -> Tensor:
    distance = distances(q, k)
    exponent = k.mT[:, None]
    if bias is not None:
        if window:
            bias = bias.masked_fill(distance.abs() >= window, 0.0)
        exponent = exponent + bias[:, None, :]
    return average(q, exponent, v, distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool))


def distances(q: Tensor, k: Tensor) -> Tensor:
    """[n m]: how far each key lies behind each query."""
    n, m = q.shape[1], k.shape[1]
    return torch.arange(m - n, m, device=q.device)[:, None] - torch.arange(m, device=q.device)


def average(q: Tensor, exponent: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """The gated mean of the values that are `seen` [n m], of each channel for itself: exponent [b n d m]."""
    exponent = exponent.masked_fill(~seen[:, None, :], -torch.inf)
    weight = torch.exp(exponent - exponent.amax(-1, keepdim=True).detach())
    return torch.sigmoid(q) * torch.einsum("bndm,bmd->bnd", weight, v) / weight.sum(-1)


EQUIVALENT = {
    "average: exponent - exponent.amax(-1, keepdim=True).detach() -> exponent - exponent.amax(-1, keepdim=True)": (
        "the maximum cancels, and so does its gradient"
    ),
}


@aft.work(cases={"causal": {}, "causal_simple": {}}, along=("n", "m"), step={"n": 1}, carried=("k", "v"), b=2, d=64)
def _(case: Case) -> float:
    """Numerator and denominator: of every pair where positions have weights of their own, else of every key."""
    pairs = case.n * (2 * case.m - case.n + 1) / 2 if case.bias else case.m
    return 3 * case.b * case.d * pairs


@aft.family
def large(x: Bunch, case: Case, rng: torch.Generator):
    """Gates that are shut, keys and biases beyond what an exponential can hold, and seldom near one another."""
    apart = {"bias": 60 * x.bias} if case.bias else {}
    # Open gates stop where float64 still tells them from one, and their gradient from nothing.
    return {"q": torch.where(x.q < 0, 60 * x.q, 4 * x.q + 3), "k": 60 * x.k + 400, "v": 4 * x.v + 3, **apart}


@aft.family
def uneven(x: Bunch, case: Case, rng: torch.Generator):
    """Keys beyond what an exponential can hold in every other channel, and ordinary ones beside them."""
    return {"k": torch.where(torch.arange(case.d) % 2 == 1, 60 * x.k + 400, x.k)}


@aft.family
def sharp(x: Bunch, case: Case, rng: torch.Generator):
    """One key wins: another for each channel, and for each query where there is a bias."""
    return {"k": 4 * x.k, **({"bias": 6 * x.bias} if case.bias else {})}


@aft.family
def needle(x: Bunch, case: Case, rng: torch.Generator):
    """The weight on keys at the edges of tiles, and on the last one."""
    key = torch.arange(case.m)
    heard = (key % 16 == 0) | (key % 16 == 15) | (key == case.m - 1)
    return {"k": torch.where(heard[:, None], x.k + 6, x.k)}


@aft.law(when=lambda case: case.causal and case.m > 1 and case.n > 1)
def the_future_is_invisible(run, x: Bunch, rng):
    left, right, whole = {}, {}, run(x).out
    n, m = x.q.shape[1], x.k.shape[1]
    # What the first queries cannot see begins at one of these keys.
    for shown in sorted({m - n + 1, *(place for place in places(m, rng, most=8) if place > m - n)}):
        later = (torch.arange(m, device=x.k.device) >= shown)[:, None]
        k, v = torch.where(later, -9 * x.k.flip(1), x.k), torch.where(later, 99 * x.v.flip(1), x.v)
        name, kept = f"out before {shown}", slice(0, shown - (m - n))
        left[name], right[name] = run(x, k=k, v=v).out[:, kept], whole[:, kept]
    return left, right


@aft.law
def equal_values_come_back_through_an_open_gate(run, x: Bunch, rng):
    row = x.v[:, :1]
    # Wide: e^q is infinite in float32.
    return run(x, q=torch.full_like(x.q, 100.0), v=row.expand_as(x.v).contiguous()).out, row.expand_as(x.q)


@aft.law
def a_constant_in_all_keys_changes_nothing(run, x: Bunch, rng):
    """Whole keys, so that adding is exact in every dtype."""
    k = (4 * x.k).round().clamp(-16, 16)
    return run(x, k=k).out, run(x, k=k + 8).out


@aft.law(when=lambda case: case.bias and not case.window)
def a_constant_in_a_row_of_the_bias_changes_nothing(run, x: Bunch, rng):
    bias = (2 * x.bias).round().clamp(-16, 16)
    row = rng.randrange(bias.shape[0])
    raised = torch.where(torch.arange(bias.shape[0], device=bias.device)[:, None] == row, bias + 8, bias)
    return run(x, bias=bias).out, run(x, bias=raised).out


@aft.law(when=lambda case: bool(case.window))
def local_is_full_with_zeros_in_its_bias(run, x: Bunch, rng):
    n, m = x.bias.shape
    query, key = torch.arange(m - n, m, device=x.bias.device)[:, None], torch.arange(m, device=x.bias.device)
    near = [[abs(int(i) - int(j)) < 3 for j in key] for i in query]
    zeros_outside = torch.where(torch.tensor(near, device=x.bias.device), x.bias, torch.zeros_like(x.bias))
    return run(x, window=3).out, run(x, bias=zeros_outside, window=0).out


@aft.law(when=lambda case: case.b > 1)
def a_batch_is_its_rows(run, x: Bunch, rng):
    row = rng.randrange(x.q.shape[0])
    return run(x).out[row : row + 1], run(x, **{name: x[name][row : row + 1] for name in "qkv"}).out


@aft.law
def permuting_channels_permutes_the_output(run, x: Bunch, rng):
    order = rng.sample(range(x.q.shape[2]), x.q.shape[2])
    return run(x).out[..., order], run(x, **{name: x[name][..., order] for name in "qkv"}).out


@aft.law(when=lambda case: case.n > 1 and case.bias)
def the_last_queries_need_no_others(run, x: Bunch, rng):
    first = rng.randrange(1, x.q.shape[1])
    return run(x).out[:, first:], run(x, q=x.q[:, first:], bias=x.bias[first:]).out


def _exponent(q, k, bias, window):
    if bias is None:
        return k.mT[:, None].expand(-1, q.shape[1], -1, -1)
    return k.mT[:, None] + (bias.masked_fill(distances(q, k).abs() >= window, 0.0) if window else bias)[:, None, :]


def _seen(q, k, causal):
    return distances(q, k) >= 0 if causal else torch.ones(q.shape[1], k.shape[1], dtype=torch.bool)


def _with_mask(name: str, change) -> None:
    """A mistake of visibility: `change(seen, distance, key, causal, window)` is the wrong mask."""

    def wrong(q, k, v, bias=None, *, causal, window):
        seen = change(_seen(q, k, causal), distances(q, k), torch.arange(k.shape[1]), causal, window)
        return average(q, _exponent(q, k, bias, window), v, seen)

    aft.mistake(name)(wrong)


_with_mask(
    "keys outside the window are hidden", lambda seen, far, key, causal, window: seen & (far.abs() < window) if window else seen
)
_with_mask("causal is ignored", lambda seen, far, key, causal, window: seen | True)
_with_mask("the mask shows one key of the future", lambda seen, far, key, causal, window: seen | (far == -1))
_with_mask(
    "the mask hides the query's own key",
    lambda seen, far, key, causal, window: seen & ((far != 0) | (key == 0)) if causal else seen,
)
_with_mask(
    "causal is aligned upper left",
    lambda seen, far, key, causal, window: far - far[0, 0] >= 0 if causal else seen,
)
_with_mask("the last key is dropped", lambda seen, far, key, causal, window: seen & ((key < key.max()) | (len(key) == 1)))
_with_mask(
    "the last partial tile of 16 keys is dropped",
    lambda seen, far, key, causal, window: seen & (key < max(16, len(key) // 16 * 16)),
)
_with_mask("the last key of each tile of 16 is dropped", lambda seen, far, key, causal, window: seen & (key % 16 != 15))
_with_mask(
    "the last tile of 16 is dropped where it is whole",
    lambda seen, far, key, causal, window: seen & ((key < len(key) - 16) | (len(key) % 16 != 0) | (len(key) == 16)),
)
_with_mask("keys beyond the 256th are not read", lambda seen, far, key, causal, window: seen & ((key < 256) | (far == 0)))


_with_mask(
    "the diagonal tile of 16 is seen whole where all tiles are",
    lambda seen, far, key, causal, window: (
        seen | ((key // 16) == (far + key) // 16) if causal and not (far.shape[0] % 16 or len(key) % 16) else seen
    ),
)
_with_mask(
    "a last key alone in its tile of 64 is not read",
    lambda seen, far, key, causal, window: seen & ((key < len(key) - 1) | (len(key) % 64 != 1) | (len(key) == 1)),
)
_with_mask(
    "a single query without bias sees the newest key alone",
    lambda seen, far, key, causal, window: seen & (key == key.max()) if causal and len(far) == 1 and not window else seen,
)


def _with_exponent(name: str, change) -> None:
    """A mistake of the exponent [b n d m]: `change(q, k, bias, window)` is wrong."""

    def wrong(q, k, v, bias=None, *, causal, window):
        return average(q, change(q, k, bias, window), v, _seen(q, k, causal))

    aft.mistake(name)(wrong)


_with_exponent("a window of w has a bias for w + 1", lambda q, k, bias, w: _exponent(q, k, bias, w and w + 1))
_with_exponent("a window of w has a bias for w - 1", lambda q, k, bias, w: _exponent(q, k, bias, w and w - 1))
_with_exponent(
    "a window wider than all keys is taken for none",
    lambda q, k, bias, w: _exponent(q, k, bias if w <= k.shape[1] else 0 * bias, w),
)
_with_exponent(
    "a single query has no window",
    lambda q, k, bias, w: _exponent(q, k, bias, w if q.shape[1] > 1 else 0),
)
_with_exponent("the window is ignored", lambda q, k, bias, w: _exponent(q, k, bias, 0))
_with_exponent("the bias is dropped", lambda q, k, bias, w: _exponent(q, k, None, w))
_with_exponent(
    "the bias is that of the first queries",
    lambda q, k, bias, w: _exponent(q, k, None if bias is None else bias.roll(1, 0), w),
)
_with_exponent("keys are scaled by d^-1/2", lambda q, k, bias, w: _exponent(q, k * k.shape[-1] ** -0.5, bias, w))
_with_exponent("queries are multiplied with keys", lambda q, k, bias, w: _exponent(q, k, bias, w) * q[..., None])
_with_exponent("backward stops at the bias", lambda q, k, bias, w: _exponent(q, k, None if bias is None else bias.detach(), w))
_with_exponent("weights are a softmax over channels", lambda q, k, bias, w: _exponent(q, k, bias, w).log_softmax(2))


@aft.mistake("causal is aligned upper left where there is no bias")
def _(q, k, v, bias=None, *, causal, window):
    far = distances(q, k)
    seen = far - far[0, 0] >= 0 if causal and bias is None else _seen(q, k, causal)
    return average(q, _exponent(q, k, bias, window), v, seen)


@aft.mistake("rows beyond the 64th have no bias")
def _(q, k, v, bias=None, *, causal, window):
    first = aft(q[:64], k[:64], v[:64], bias, causal=causal, window=window)
    return torch.cat([first, aft(q[64:], k[64:], v[64:], None, causal=causal)]) if len(q) > 64 else first


@aft.mistake("a single channel is not gated")
def _(q, k, v, bias=None, *, causal, window):
    return aft(q if q.shape[2] > 1 else 0 * q, k, v, bias, causal=causal, window=window)


@aft.mistake("the gate is 1 / (1 + e^-q), without a gradient where that is infinite")
def _(q, k, v, bias=None, *, causal, window):
    return aft(0 * q, k, v, bias, causal=causal, window=window) * 2 / (1 + torch.exp(-q.float())).double()


@aft.mistake("the gate is missing")
def _(q, k, v, bias=None, *, causal, window):
    return average(torch.full_like(q, 99.0), _exponent(q, k, bias, window), v, _seen(q, k, causal)) + 0 * q


@aft.mistake("the gate is a tanh")
def _(q, k, v, bias=None, *, causal, window):
    return aft(torch.full_like(q, 99.0), k, v, bias, causal=causal, window=window) * torch.tanh(q)


@aft.mistake("the gate is rounded to four bits")
def _(q, k, v, bias=None, *, causal, window):
    gate = torch.sigmoid(q)
    coarse = gate + ((15 * gate).round() / 15 - gate).detach()
    return aft(torch.full_like(q, 99.0), k, v, bias, causal=causal, window=window) * coarse


def _in_float32(q, exponent, top, v, seen):
    weight = torch.exp((exponent - top).float()).double() * seen[:, None, :]
    return torch.sigmoid(q) * torch.einsum("bndm,bmd->bnd", weight, v) / weight.sum(-1)


@aft.mistake("the maximum is not subtracted")
def _(q, k, v, bias=None, *, causal, window):
    return _in_float32(q, _exponent(q, k, bias, window), 0.0, v, _seen(q, k, causal))


@aft.mistake("the maxima of keys and of biases are subtracted apart")
def _(q, k, v, bias=None, *, causal, window):
    exponent = _exponent(q, k, bias, window).masked_fill(~_seen(q, k, causal)[:, None, :], -torch.inf)
    keys = _exponent(q, k, None, 0).masked_fill(~_seen(q, k, causal)[:, None, :], -torch.inf)
    biases = exponent - k.mT[:, None]
    return _in_float32(
        q, exponent, (keys.amax(-1, keepdim=True) + biases.amax(-1, keepdim=True)).detach(), v, _seen(q, k, causal)
    )


@aft.mistake("a single query that sees all keys has no bias")
def _(q, k, v, bias=None, *, causal, window):
    return aft(q, k, v, bias if causal or q.shape[1] > 1 else None, causal=causal, window=window)


@aft.mistake("the maximum is that of all keys, hidden ones too")
def _(q, k, v, bias=None, *, causal, window):
    exponent = _exponent(q, k, bias, window)
    return _in_float32(q, exponent, exponent.amax(-1, keepdim=True).detach(), v, _seen(q, k, causal))


@aft.mistake("backward misses the denominator")
def _(q, k, v, bias=None, *, causal, window):
    exponent = _exponent(q, k, bias, window).masked_fill(~_seen(q, k, causal)[:, None, :], -torch.inf)
    weight = torch.exp(exponent - exponent.logsumexp(-1, keepdim=True).detach())
    return torch.sigmoid(q) * torch.einsum("bndm,bmd->bnd", weight, v)


@aft.mistake("the last tile of 16 channels is not gated where it is whole")
def _(q, k, v, bias=None, *, causal, window):
    d = q.shape[2]
    return aft(q * ((torch.arange(d) < d - 16) | (d % 16 != 0)), k, v, bias, causal=causal, window=window)


@aft.mistake("a window that is a whole tile of 16 has a bias for one less")
def _(q, k, v, bias=None, *, causal, window):
    return aft(q, k, v, bias, causal=causal, window=window - (window > 0 and window % 16 == 0))


@aft.mistake("without a bias, keys beyond the 64th are not read")
def _(q, k, v, bias=None, *, causal, window):
    near = (torch.arange(k.shape[1]) < 64)[:, None]
    return aft(q, k if bias is not None else torch.where(near, k, k - 99), v, bias, causal=causal, window=window)


@aft.mistake("backward stops at the gate where there is a single row without bias")
def _(q, k, v, bias=None, *, causal, window):
    return aft(q.detach() if bias is None and len(q) == 1 else q, k, v, bias, causal=causal, window=window)
