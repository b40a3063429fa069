"""LLM.int8() (Dettmers et al. 2022, arXiv:2208.07339, eq. 8): an int8 product, with features that have outliers kept apart.

A feature is an outlier if any token has a magnitude of at least the threshold there. These features are multiplied as they are;
the others are quantized as in `absmax_int8`. Where paper and bitsandbytes disagree, the paper's side is taken:
- At least the threshold, as in bitsandbytes; the paper says both "larger than" and "at least".
- A token's scale is that of its features that are no outliers; in bitsandbytes also of what is below the threshold in those
  that are.
- Outlier features meet the weights as they were given; bitsandbytes keeps no copy, and takes int8 ones, dequantized.
- The scale of a row of w counts all features, outliers too: it is made before any x is seen (both agree).
Halves, zeros and gradients are those of `absmax_int8`, and inputs keep clear of ties in the same way. `of_bitsandbytes` is the
library's side of the last two points, so that the oracle has something to agree with.
"""

from typing import Any

import torch
from torch import Tensor

from harness.spec import Bunch, Case, spec
from harness.specs.absmax_int8 import clear_of_ties, faintness, halves, quantize


@spec(
    "x[n d], w[e d] -> out[n e], x_code[n d]",
    n=7,
    d=48,
    e=5,
    cases={
        "plain": {},
        "one_token": {"n": 1},
        "one_output": {"e": 1, "n": 17},  # and a last token alone in its tile
        "many_rows": {"n": 270, "d": 16, "e": 140},  # what is done for the first tiles alone
        "square": {"n": 64, "d": 64, "e": 64},  # a transposed w has the right shape; a path for whole tiles alone
        "ragged": {"d": 37, "e": 11},  # no multiple of a vector or a tile
        "wide": {"d": 1100, "n": 3},  # sums far beyond 16 bits, over 64 outlier features
        "low_threshold": {"threshold": 2.5},  # a threshold that is built in; many outliers
        "no_outlier": {"threshold": 10000.0},  # absmax_int8
        "all_outliers": {"threshold": 0.0},  # the exact product
    },
)
def llm_int8(x: Tensor, w: Tensor, *, threshold: float = 6.0) -> tuple[Tensor, Tensor]:
    outlier = (x.abs() >= threshold).any(0)
    x_code, x_scale = quantize(torch.where(outlier, 0.0, x))
    w_code, w_scale = quantize(w)
    return torch.where(outlier, x, 0.0) @ w.mT + x_scale * (x_code @ w_code.mT) * w_scale.mT, x_code


def of_bitsandbytes(
    x: Tensor, w: Tensor, *, threshold: float = 6.0, shared_scale=True, coarse_outliers=True
) -> tuple[Tensor, Tensor]:
    """The same with scales shared by what is below the threshold in outlier features, and with int8 weights for these."""
    loud = x.abs() >= threshold
    outlier = loud.any(0)
    x_code, x_scale = quantize(torch.where(loud if shared_scale else outlier, 0.0, x))
    w_code, w_scale = quantize(w)
    x_code = torch.where(outlier, 0.0, x_code)
    met = w_code * w_scale if coarse_outliers else w
    return torch.where(outlier, x, 0.0) @ met.mT + x_scale * (x_code @ w_code.mT) * w_scale.mT, x_code


def _cleared(case: Case, x: Tensor, w: Tensor) -> dict[str, Tensor]:
    x = x.to(case.dtype).double()
    outlier = (x.abs() >= case.threshold).any(0)
    quiet = clear_of_ties(torch.where(outlier, 0.0, x), case.dtype)
    return {"x": torch.where(outlier, x, quiet), "w": clear_of_ties(w, case.dtype)}


def _loud(case: Case, rng: torch.Generator) -> Tensor:
    """About one feature in eight, and the last one [d]."""
    return (torch.rand(case.d, generator=rng) < 1 / 8) | (torch.arange(case.d) == case.d - 1)


@llm_int8.work(jumps=True, d=512, e=512)
def _(case: Case) -> float:
    """The product."""
    return 2 * case.n * case.d * case.e


@llm_int8.family
def normal(x: Bunch, case: Case, rng: torch.Generator):
    """Some features have outliers in some tokens."""
    return _cleared(case, torch.where(_loud(case, rng), 8 * x.x, x.x), x.w)


@llm_int8.family
def large(x: Bunch, case: Case, rng: torch.Generator):
    return _cleared(case, torch.where(_loud(case, rng), 4 * x.x + 3, x.x / 2 + 1), 4 * x.w + 3)


@llm_int8.family
def lone(x: Bunch, case: Case, rng: torch.Generator):
    """One outlier in the first token alone; the same feature is large elsewhere, but below the threshold, and so are others.

    Another in the last token alone; that feature is quiet elsewhere."""
    token, feature = torch.arange(case.n)[:, None], torch.arange(case.d)
    last, below = feature == case.d - 1, 0.9 * case.threshold if case.threshold < 100 else 5.0
    quiet = torch.where((token == case.n - 1) & (feature == case.d - 2), 40.0, x.x / 2)
    return _cleared(case, torch.where(last, torch.where(token == 0, -40.0, below), quiet), torch.where(last, 10 * x.w, x.w))


@llm_int8.family
def at_the_threshold(x: Bunch, case: Case, rng: torch.Generator):
    """Features whose largest magnitude is the threshold itself, on either side of zero."""
    feature = torch.arange(case.d)
    edge = torch.where(feature % 2 == 0, 1.0, -1.0) * min(case.threshold, 6.0)
    return _cleared(case, torch.where(feature % 9 == 1, edge, x.x / 4), x.w)


@llm_int8.family
def silent(x: Bunch, case: Case, rng: torch.Generator):
    """Tokens and rows of weights that are all zeros; tokens that are zeros but for an outlier."""
    token, last = torch.arange(case.n)[:, None], torch.arange(case.d) == case.d - 1
    heard = torch.where(token % 3 == 0, 0.0, torch.where(token % 3 == 1, 1.0, 20.0 * last))
    return _cleared(case, x.x * heard, x.w * (torch.arange(case.e) % 2 == 0)[:, None])


@llm_int8.family
def faint(x: Bunch, case: Case, rng: torch.Generator):
    """Weights and most tokens so faint that a least scale shows; every third token is as loud as ever."""
    heard = torch.where(torch.arange(case.n)[:, None] % 3 == 2, 1.0, faintness(case, case.n))
    return _cleared(case, x.x * heard, x.w * faintness(case, 1))


@llm_int8.family
def ties(x: Bunch, case: Case, rng: torch.Generator):
    """Whole and half codes of scales that are powers of two, below every threshold, and a feature of outliers."""
    quiet, last = halves((case.n, case.d - 1), 2.0**-6, rng), torch.full((case.n, 1), 8.0)
    return {"x": torch.cat([quiet, last], 1), "w": halves((case.e, case.d), 2.0**-9, rng)}


@llm_int8.law
def permuting_features_changes_nothing(run, x: Bunch, rng):
    order = rng.sample(range(x.x.shape[1]), x.x.shape[1])
    once, permuted = run(x), run(x, x=x.x[:, order], w=x.w[:, order])
    return (once.out, once.x_code[:, order]), (permuted.out, permuted.x_code)


@llm_int8.law
def a_power_of_two_in_the_weights_comes_through(run, x: Bunch, rng):
    once, doubled = run(x), run(x, w=2 * x.w)
    return (2 * once.out, once.x_code), (doubled.out, doubled.x_code)


@llm_int8.law
def the_sign_comes_through(run, x: Bunch, rng):
    once, turned = run(x), run(x, x=-x.x)
    return (-once.out, -once.x_code), (turned.out, turned.x_code)


@llm_int8.law(when=lambda case: case.n > 1)
def a_token_twice_changes_nothing(run, x: Bunch, rng):
    row = rng.randrange(x.x.shape[0])
    once, twice = run(x), run(x, x=torch.cat([x.x, x.x[row : row + 1]]))
    return (once.out, once.x_code), (twice.out[:-1], twice.x_code[:-1])


@llm_int8.law
def a_feature_without_weights_may_be_an_outlier(run, x: Bunch, rng):
    beside = torch.cat([x.x, torch.full_like(x.x[:, :1], 12000.0)], 1)
    unread = torch.cat([x.w, torch.zeros_like(x.w[:, :1])], 1)
    once, more = run(x), run(x, x=beside, w=unread)
    return (once.out, once.x_code), (more.out, more.x_code[:, :-1])


def _decomposed(x: Tensor, w: Tensor, outlier: Tensor) -> tuple[Tensor, Tensor]:
    """The reference for outliers found in another way."""
    x_code, x_scale = quantize(torch.where(outlier, 0.0, x))
    w_code, w_scale = quantize(w)
    return torch.where(outlier, x, 0.0) @ w.mT + x_scale * (x_code @ w_code.mT) * w_scale.mT, x_code


@llm_int8.mistake("outliers are larger than the threshold, not at least")
def _(x, w, *, threshold):
    return _decomposed(x, w, (x.abs() > threshold).any(0))


@llm_int8.mistake("negative outliers are missed")
def _(x, w, *, threshold):
    return _decomposed(x, w, (x >= threshold).any(0))


@llm_int8.mistake("outliers are found in each token by itself")
def _(x, w, *, threshold):
    return _decomposed(x, w, x.abs() >= threshold)


@llm_int8.mistake("a feature is an outlier only if all tokens are")
def _(x, w, *, threshold):
    return _decomposed(x, w, (x.abs() >= threshold).all(0))


@llm_int8.mistake("outliers are looked for in the first token only")
def _(x, w, *, threshold):
    return _decomposed(x, w, x[0].abs() >= threshold)


@llm_int8.mistake("outliers are looked for in the first 128 tokens only")
def _(x, w, *, threshold):
    return _decomposed(x, w, (x[:128].abs() >= threshold).any(0))


@llm_int8.mistake("outliers are looked for in each tile of 64 tokens by itself")
def _(x, w, *, threshold):
    tiles = [(tile.abs() >= threshold).any(0).expand(tile.shape) for tile in x.split(64)]
    return _decomposed(x, w, torch.cat(tiles))


@llm_int8.mistake("a feature is an outlier only if its mean magnitude is large too")
def _(x, w, *, threshold):
    return _decomposed(x, w, (x.abs() >= threshold).any(0) & (x.abs().mean(0) >= threshold / 10))


@llm_int8.mistake("only the first 64 outlier features are found")
def _(x, w, *, threshold):
    outlier = (x.abs() >= threshold).any(0)
    return _decomposed(x, w, outlier & (outlier.cumsum(0) <= 64))


@llm_int8.mistake("output features beyond the 128th have no outliers")
def _(x, w, *, threshold):
    outlier, first = (x.abs() >= threshold).any(0), torch.arange(len(w)) < 128
    right, x_code = llm_int8(x, w, threshold=threshold)
    return torch.where(first, right, llm_int8(torch.where(outlier, 0.0, x), w, threshold=torch.inf)[0]), x_code


@llm_int8.mistake("the threshold is built in")
def _(x, w, *, threshold):
    return llm_int8(x, w)


@llm_int8.mistake("nothing is decomposed")
def _(x, w, *, threshold):
    return _decomposed(x, w, torch.zeros_like(x[0], dtype=torch.bool))


@llm_int8.mistake("the last outlier feature is missed")
def _(x, w, *, threshold):
    outlier = (x.abs() >= threshold).any(0)
    return _decomposed(x, w, outlier & (outlier.flip(0).cumsum(0).flip(0) > 1))


@llm_int8.mistake("outlier features are dropped")
def _(x, w, *, threshold):
    return llm_int8(torch.where((x.abs() >= threshold).any(0), 0.0, x), w, threshold=torch.inf)


@llm_int8.mistake("outlier features are in both products")
def _(x, w, *, threshold):
    outlier = (x.abs() >= threshold).any(0)
    (x_code, x_scale), (w_code, w_scale) = quantize(x), quantize(w)
    return torch.where(outlier, x, 0.0) @ w.mT + x_scale * (x_code @ w_code.mT) * w_scale.mT, x_code


@llm_int8.mistake("scales count outliers")
def _(x, w, *, threshold):
    outlier = (x.abs() >= threshold).any(0)
    (x_code, x_scale), (w_code, w_scale) = quantize(x), quantize(w)
    x_code = torch.where(outlier, 0.0, x_code)
    return torch.where(outlier, x, 0.0) @ w.mT + x_scale * (x_code @ w_code.mT) * w_scale.mT, x_code


@llm_int8.mistake("scales count what is below the threshold in outlier features, as in bitsandbytes")
def _(x, w, *, threshold):
    return of_bitsandbytes(x, w, threshold=threshold, coarse_outliers=False)


@llm_int8.mistake("outlier features meet int8 weights, as in bitsandbytes")
def _(x, w, *, threshold):
    return of_bitsandbytes(x, w, threshold=threshold, shared_scale=False)


@llm_int8.mistake("scales of the weights leave outlier features out")
def _(x, w, *, threshold):
    outlier = (x.abs() >= threshold).any(0)
    x_code, x_scale = quantize(torch.where(outlier, 0.0, x))
    w_code, w_scale = quantize(torch.where(outlier, 0.0, w))
    return torch.where(outlier, x, 0.0) @ w.mT + x_scale * (x_code @ w_code.mT) * w_scale.mT, x_code


@llm_int8.mistake("sums stop at the ends of 16 bits")
def _(x, w, *, threshold):
    outlier = (x.abs() >= threshold).any(0)
    x_code, x_scale = quantize(torch.where(outlier, 0.0, x))
    w_code, w_scale = quantize(w)
    sums = (x_code @ w_code.mT).clamp(-(2**15), 2**15 - 1)
    return torch.where(outlier, x, 0.0) @ w.mT + x_scale * sums * w_scale.mT, x_code


def _with_codes(x: Tensor, w: Tensor, threshold: float, of_x: Any = quantize, of_w: Any = quantize) -> tuple[Tensor, Tensor]:
    outlier = (x.abs() >= threshold).any(0)
    (x_code, x_scale), (w_code, w_scale) = of_x(torch.where(outlier, 0.0, x)), of_w(w)
    return torch.where(outlier, x, 0.0) @ w.mT + x_scale * (x_code @ w_code.mT) * w_scale.mT, x_code


def _cut_off(x: Tensor) -> tuple[Tensor, Tensor]:
    scale = quantize(x)[1]
    return torch.trunc(x / scale), scale


def _clamped(x: Tensor) -> tuple[Tensor, Tensor]:
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-5) / 127
    return torch.round(x / scale), scale


@llm_int8.mistake("codes are cut off instead of rounded")
def _(x, w, *, threshold):
    return _with_codes(x, w, threshold, of_x=_cut_off)


@llm_int8.mistake("the largest magnitude of a token counts as 1e-5 at least")
def _(x, w, *, threshold):
    return _with_codes(x, w, threshold, of_x=_clamped)


@llm_int8.mistake("the largest magnitude of a row of weights counts as 1e-5 at least")
def _(x, w, *, threshold):
    return _with_codes(x, w, threshold, of_w=_clamped)


@llm_int8.mistake("w is taken for its transpose where it is square")
def _(x, w, *, threshold):
    return llm_int8(x, w.mT if len(w) == w.shape[1] else w, threshold=threshold)


@llm_int8.mistake("outliers are not looked for in the last tile of 16 tokens where it is whole")
def _(x, w, *, threshold):
    n = len(x)
    looked_at = ((torch.arange(n) < n - 16) | (n % 16 != 0))[:, None]
    return _decomposed(x, w, ((x.abs() >= threshold) & looked_at).any(0))


@llm_int8.mistake("a single output feature has no outliers")
def _(x, w, *, threshold):
    outlier = (x.abs() >= threshold).any(0)
    right, x_code = llm_int8(x, w, threshold=threshold)
    return right if len(w) > 1 else llm_int8(torch.where(outlier, 0.0, x), w, threshold=torch.inf)[0], x_code


@llm_int8.mistake("outliers of a last token alone in its tile of 16 are missed")
def _(x, w, *, threshold):
    n = len(x)
    looked_at = ((torch.arange(n) < n - 1) | (n % 16 != 1) | (n == 1))[:, None]
    return _decomposed(x, w, ((x.abs() >= threshold) & looked_at).any(0))
