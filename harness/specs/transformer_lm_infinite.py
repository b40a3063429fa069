"""LM-Infinite (Han et al. 2023, arXiv:2308.16137): a model with rotary positions that goes on past its training length t.

Where paper and code disagree, this side is taken:
- A query sees the last t keys, its own included, and the first `sinks` (the paper's global tokens, 10 to 100 there).
- No distance is told that training did not show: what is further than t away is told as t (the distance ceiling).
- Tokens from the middle are not fetched again (the paper's third part, for some tasks only).
Up to t tokens it is `transformer_rope`, whose parameters it has. The skeleton is `_decoder`.
"""

import torch
from torch import Tensor

from harness.spec import Bunch, Case, spec
from harness.specs._decoder import CASES, CONTRACT, PARAMETERS, SIZES, give_laws, give_work
from harness.specs._distances import EQUIVALENT as AT_DISTANCES
from harness.specs._distances import plain, transformer_at
from harness.specs._transformer import NO_POSITIONS
from harness.specs.attention import visible
from harness.specs.transformer_window import within

FAR = {**CASES, "all_within": {"t": 37}, "one_sink": {"sinks": 1}, "sinks_meet_the_window": {"t": 30, "sinks": 9}}


@spec(CONTRACT, parameters=PARAMETERS, cases=FAR, **SIZES)
def transformer_lm_infinite(ids: Tensor, parameters: dict[str, Tensor], *, h: int = 4, t: int = 16, sinks: int = 4) -> Tensor:
    return _with(ids, parameters, h, t, sinks, ceiling=t)


def _with(ids, parameters, h, window, sinks, ceiling):
    place = torch.arange(ids.shape[1])
    seen, at_ceiling = visible(len(place), len(place), "lambda", window, sinks=sinks), (0 * place + ceiling, 0 * place)
    return transformer_at(ids, parameters, h, seen, near=(place, place), far=at_ceiling, is_far=place[:, None] - place > ceiling)


EQUIVALENT = (
    NO_POSITIONS
    | AT_DISTANCES
    | {"_with: place[:, None] - place > ceiling -> place[:, None] - place >= ceiling": "at the ceiling both say the same"}
)

give_laws(transformer_lm_infinite)
give_work(transformer_lm_infinite, lambda case: case.t)


@transformer_lm_infinite.fades
def _(k: Tensor, case: Case, parameters: dict[str, Tensor]) -> Tensor:
    """Of a token that is none of the first."""
    return within(k, case.l * (case.t - 1))


@transformer_lm_infinite.law
def up_to_the_training_length_it_is_a_plain_transformer(run, x: Bunch, rng):
    short = x.ids[:, : run.case.t]
    return run(x, ids=short).logits, plain(x, short, run.case.h)


@transformer_lm_infinite.law(when=lambda case: case.l == 1 and case.n > case.t + case.sinks + 1)
def one_layer_does_not_know_the_middle(run, x: Bunch, rng):
    place = torch.arange(x.ids.shape[1], device=x.ids.device)
    middle = (place >= run.case.sinks) & (place < x.ids.shape[1] - run.case.t)
    return run(x).logits[:, -1], run(x, ids=torch.where(middle, (x.ids * 5 + 2) % run.case.v, x.ids)).logits[:, -1]


@transformer_lm_infinite.mistake("distances have no ceiling")
def _(ids, parameters, *, h, t, sinks):
    return _with(ids, parameters, h, t, sinks, ceiling=ids.shape[1])


@transformer_lm_infinite.mistake("the ceiling is one less")
def _(ids, parameters, *, h, t, sinks):
    return _with(ids, parameters, h, t, sinks, ceiling=t - 1)


@transformer_lm_infinite.mistake("the first tokens are forgotten")
def _(ids, parameters, *, h, t, sinks):
    return _with(ids, parameters, h, t, 0, ceiling=t)


@transformer_lm_infinite.mistake("one sink more")
def _(ids, parameters, *, h, t, sinks):
    return _with(ids, parameters, h, t, sinks + 1, ceiling=t)


@transformer_lm_infinite.mistake("the window shows one key more")
def _(ids, parameters, *, h, t, sinks):
    return _with(ids, parameters, h, t + 1, sinks, ceiling=t)


@transformer_lm_infinite.mistake("sees everything, at a ceiling")
def _(ids, parameters, *, h, t, sinks):
    return _with(ids, parameters, h, ids.shape[1], sinks, ceiling=t)


@transformer_lm_infinite.mistake("sinks are told the distances of a cache")
def _(ids, parameters, *, h, t, sinks):
    place = torch.arange(ids.shape[1])
    seen, in_cache = visible(len(place), len(place), "lambda", t, sinks=sinks), (place.clamp(max=t + sinks - 1), place)
    return transformer_at(ids, parameters, h, seen, near=(place, place), far=in_cache, is_far=place[:, None] - place >= t)
