"""The reference of transformer language models that differ in what attention knows of positions: `_decoder` with attention."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from harness.spec import Bunch, Spec
from harness.specs._decoder import decoder, join, split
from harness.specs.attention import attend, visible


def untouched(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return q, k, v


def transformer(
    ids: Tensor,
    parameters: Mapping[str, Tensor],
    h: int,
    *,
    positions: Tensor | None = None,
    turn: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]] = untouched,
    bias: Tensor | None = None,
    scale: float | None = None,
    visibility: str = "causal",
    window: int = 0,
) -> Tensor:
    """ids[b n] -> logits[b n v], with `positions` [n d] added to the embedding, queries, keys and values [b h n d/h] put through
    `turn`, scores times `scale` (d^-1/2 of a head where none is given) plus `bias` [h n n], and only what is visible seen."""
    n = ids.shape[1]
    seen = visible(n, n, visibility, window, device=ids.device)

    def mix(x, project):
        q, k, v = turn(*(split(project(x, name), h) for name in "qkv"))
        return project(join(attend(q, k, v, bias, seen, scale)), "o")

    return decoder(ids, parameters, mix, positions)


# The argument of a model without positions, for its EQUIVALENT.
NO_POSITIONS = dict.fromkeys(
    ("decoder: x = x + positions -> (dropped)", "decoder: x + positions -> x - positions"),
    "this model adds no positions to the embedding",
)


def give_set_law(spec: Spec) -> None:
    """Give a model without any positions the law that its past is a set."""
    spec.law(when=lambda case: case.l == 1 and case.n > 2)(the_order_of_the_past_is_unknown_to_one_layer)


def the_order_of_the_past_is_unknown_to_one_layer(run, x: Bunch, rng):
    last = x.ids.shape[1] - 1
    order = rng.sample(range(last), last)
    return run(x).logits[:, -1], run(x, ids=torch.cat([x.ids[:, order], x.ids[:, last:]], 1)).logits[:, -1]
