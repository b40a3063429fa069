"""A language model of one's own: no paper is held against it, each implementation is its own definition.

It has no float64 reference here. What it computes in float32 is held against what the same module computes in float64, and it
must keep what every causal language model keeps: the future is invisible, a batch is its rows, a text that goes on begins alike;
and, where the module has a method `step`, one token at a time it says what it says of the whole.

The sizes are those that the suites that train set: v symbols, width d, h heads, l layers, f the width of the feed-forward
part (chosen so that all contestants have about as many parameters), t the length of training. A model may take them or leave
them; it must take ids[b n] of any b and n. Whoever has a mixer only, puts it into `harness.nn.decoder.Decoder`.
"""

import torch
from torch import Tensor

from harness.spec import Bunch, spec

DEFINED = False


@spec(
    "ids[b n]:int<v -> logits[b n v]",
    cases={
        "plain": {},
        "one_token": {"n": 1},
        "long": {"n": 150, "t": 150, "b": 1, "l": 1},
        "one_head": {"h": 1, "d": 12},
        "three_layers": {"l": 3, "n": 19},
        "wide_heads": {"h": 2, "d": 96, "n": 11, "l": 1},
    },
    b=3,
    n=37,
    v=29,
)
def language_model(ids: Tensor, *, h: int = 4, d: int = 32, f: int = 48, l: int = 2, t: int = 64) -> Tensor:
    raise NotImplementedError("a language model of one's own has no definition but itself")


language_model.defined = DEFINED
del language_model.families["large"]  # ids have no magnitude


@language_model.law(when=lambda case: case.n > 1)
def the_future_is_invisible(run, x: Bunch, rng):
    now = rng.randrange(1, x.ids.shape[1])
    other = torch.cat([x.ids[:, :now], x.ids[:, now:].flip(1) // 2], 1)
    return run(x).logits[:, :now], run(x, ids=other).logits[:, :now]


@language_model.law
def a_batch_is_its_rows(run, x: Bunch, rng):
    row = rng.randrange(x.ids.shape[0])
    return run(x).logits[row : row + 1], run(x, ids=x.ids[row : row + 1]).logits


@language_model.law(when=lambda case: case.n > 1)
def a_text_that_goes_on_begins_alike(run, x: Bunch, rng):
    stop = rng.randrange(1, x.ids.shape[1])
    return run(x).logits[:, :stop], run(x, ids=x.ids[:, :stop]).logits
