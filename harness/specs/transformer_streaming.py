"""StreamingLLM (Xiao et al. 2023, arXiv:2309.17453): a model with rotary positions that keeps a rolling cache of keys and values.

Where paper and code disagree, this side is taken:
- The cache holds t tokens, t the training length: the first `sinks`, which are never given up, and the last t - sinks, the
  newest included. So a query sees t keys (the paper's code gives up a token after the step, and shows one more).
- Positions are places in the cache, from 0 on: keys are kept as they are and turned when they are read.
- Keys and values of deeper layers are those that were made when their token came, with what was in the cache then.
- `sinks` = 0 is window attention: the same cache without the first tokens.
Up to t tokens it is `transformer_rope`, whose parameters it has. The skeleton is `_decoder`.
"""

import torch
from torch import Tensor

from harness.spec import Bunch, Case, spec
from harness.specs._decoder import CASES, CONTRACT, PARAMETERS, SIZES, give_laws, give_work
from harness.specs._distances import EQUIVALENT as AT_DISTANCES
from harness.specs._distances import transformer_at
from harness.specs._transformer import NO_POSITIONS
from harness.specs.attention import visible
from harness.specs.transformer_lm_infinite import transformer_lm_infinite
from harness.specs.transformer_window import within

ROLLING = {**CASES, "all_within": {"t": 37}, "one_sink": {"sinks": 1}, "no_sinks": {"sinks": 0}, "sinks_and_one": {"t": 5}}


@spec(CONTRACT, parameters=PARAMETERS, cases=ROLLING, **SIZES)
def transformer_streaming(ids: Tensor, parameters: dict[str, Tensor], *, h: int = 4, t: int = 16, sinks: int = 4) -> Tensor:
    return _with(ids, parameters, h, t, sinks)


def _with(ids, parameters, h, size, sinks, window=None):
    place = torch.arange(ids.shape[1])
    seen = visible(len(place), len(place), "lambda", size - sinks if window is None else window, sinks=sinks)
    # The newest is at the last place of the cache; a sink is at its own, the others as far before the newest as they came.
    in_cache = place.clamp(max=size - 1)
    return transformer_at(ids, parameters, h, seen, near=(place, place), far=(in_cache, place), is_far=place < sinks)


EQUIVALENT = (
    NO_POSITIONS
    | AT_DISTANCES
    | {
        "_with: size - sinks if window is None else window -> size - sinks": "only mistakes give another window",
        "_with: place < sinks -> place <= sinks": (
            "the first key that is no sink is seen by queries before place `size` alone, to which it stands the same either way"
        ),
    }
)

give_laws(transformer_streaming)
give_work(transformer_streaming, lambda case: case.t)


@transformer_streaming.fades
def _(k: Tensor, case: Case, parameters: dict[str, Tensor]) -> Tensor:
    """Of a token that is no sink."""
    return within(k, case.l * (case.t - case.sinks - 1))


transformer_streaming.law(transformer_lm_infinite.laws["up_to_the_training_length_it_is_a_plain_transformer"].check)


@transformer_streaming.law(when=lambda case: case.l == 1 and case.n > case.t)
def one_layer_is_a_plain_one_on_what_is_in_the_cache(run, x: Bunch, rng):
    kept = torch.cat([x.ids[:, : run.case.sinks], x.ids[:, x.ids.shape[1] - (run.case.t - run.case.sinks) :]], 1)
    return run(x).logits[:, -1], run(x, ids=kept).logits[:, -1]


@transformer_streaming.mistake("the cache holds one token more")
def _(ids, parameters, *, h, t, sinks):
    return _with(ids, parameters, h, t + 1, sinks)


@transformer_streaming.mistake("the sinks are given up")
def _(ids, parameters, *, h, t, sinks):
    return _with(ids, parameters, h, t - sinks, 0) if sinks else _with(ids, parameters, h, t + 1, 0)


@transformer_streaming.mistake("sinks come on top of the window")
def _(ids, parameters, *, h, t, sinks):
    return _with(ids, parameters, h, t + max(sinks, 1), sinks)


@transformer_streaming.mistake("positions are those in the text")
def _(ids, parameters, *, h, t, sinks):
    n = ids.shape[1]
    seen = visible(n, n, "lambda", t - sinks, sinks=sinks) if sinks else visible(n, n, "sliding_window", t - 1)
    place = torch.arange(n)
    return transformer_at(ids, parameters, h, seen, near=(place, place), far=(place, place), is_far=place < 0)


@transformer_streaming.mistake("sinks stand one place too near")
def _(ids, parameters, *, h, t, sinks):
    return _with(ids, parameters, h, t - 1, sinks, window=t - sinks)


@transformer_streaming.mistake("nothing is given up")
def _(ids, parameters, *, h, t, sinks):
    return _with(ids, parameters, h, t, sinks, window=ids.shape[1])


@transformer_streaming.mistake("tokens of a full cache lose their order")
def _(ids, parameters, *, h, t, sinks):
    place = torch.arange(ids.shape[1])
    seen, first = visible(len(place), len(place), "lambda", t - sinks, sinks=sinks), 0 * place
    return transformer_at(ids, parameters, h, seen, near=(first, first), far=(first, first), is_far=place < 0)
