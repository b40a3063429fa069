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
AT_ONCE = 32  # rows of a law


@spec(
    "ids[b n]:int<v -> logits[b n v]",
    cases={
        "plain": {},
        "one_token": {"n": 1},
        "long": {"n": 150, "t": 150, "b": 1, "l": 1},
        "one_head": {"h": 1, "d": 12},
        "three_layers": {"l": 3, "n": 19},
        "wide_heads": {"h": 2, "d": 96, "n": 11, "l": 1},
        # A cache of t tokens that is wrong once it is full, positions that go on otherwise.
        "beyond_its_training": {"n": 70, "t": 24, "b": 2},
    },
    b=3,
    n=37,
    v=29,
)
def language_model(ids: Tensor, *, h: int = 4, d: int = 32, f: int = 48, l: int = 2, t: int = 64) -> Tensor:
    raise NotImplementedError("a language model of one's own has no definition but itself")


language_model.defined = DEFINED
del language_model.families["large"]  # ids have no magnitude


# Told first: the next law asks many rows at once.
@language_model.law
def a_batch_is_its_rows(run, x: Bunch, rng):
    return run(x).logits, torch.cat([run(x, ids=row[None]).logits for row in x.ids])


@language_model.law(when=lambda case: case.n > 1)
def the_future_is_invisible(run, x: Bunch, rng):
    """From every place: who cuts texts into pieces may see over the end of one of them by a token."""
    said = run(x).logits
    b, n, v = said.shape
    place, now = torch.arange(n, device=said.device), torch.arange(n - 1, device=said.device)
    own = x.ids[now % b]
    others = torch.where(place > now[:, None], (own + 1) % v, own)
    asked = torch.cat([run(x, ids=some).logits for some in others.split(AT_ONCE)])
    return said[now % b, now], asked[now, now]


@language_model.law(when=lambda case: case.n > 1)
def a_text_that_goes_on_begins_alike(run, x: Bunch, rng):
    """At a place that is drawn, and where what was read so far is whole pieces of a power of two."""
    n, said = x.ids.shape[1], run(x).logits
    stops = sorted({rng.randrange(1, n), *(2**i for i in range(n.bit_length()) if 2**i < n)})
    begun = {f"logits of the first {stop}": run(x, ids=x.ids[:, :stop]).logits for stop in stops}
    return {name: said[:, : logits.shape[1]] for name, logits in begun.items()}, begun
