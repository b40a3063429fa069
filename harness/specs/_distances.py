"""The reference of transformers with rotary positions that are told other distances than the true ones after training."""

from collections.abc import Mapping

import torch
from torch import Tensor

from harness.spec import Bunch
from harness.specs._decoder import decoder, join, split
from harness.specs.attention import averaged
from harness.specs.rotary import rotary
from harness.specs.transformer_rope import transformer_rope

Places = tuple[Tensor, Tensor]  # of queries [n] and of keys [n]


def transformer_at(
    ids: Tensor, parameters: Mapping[str, Tensor], h: int, seen: Tensor, near: Places, far: Places, is_far: Tensor
) -> Tensor:
    """ids[b n] -> logits[b n v]: query and key are turned to their places in `far` where `is_far` [n n], else as in `near`."""

    def mix(x, project):
        q, k, v = (split(project(x, name), h) for name in "qkv")
        score = torch.where(is_far, at(q, k, *far), at(q, k, *near)) * q.shape[-1] ** -0.5
        return project(join(averaged(v, score.masked_fill(~seen, -torch.inf))), "o")

    return decoder(ids, parameters, mix)


def at(q: Tensor, k: Tensor, place_q: Tensor, place_k: Tensor) -> Tensor:
    """Products [b h n m] of queries [b h n d] and keys [b h m d] with rotary positions; only differences of places matter."""
    return rotary(q, place_q) @ rotary(k, place_k).mT


def plain(x: Bunch, ids: Tensor, h: int) -> Tensor:
    """What the plain model with rotary positions says of these ids, by the parameters in x; in float64."""
    parameters = {name: x[name].double() for name in x if name != "ids" and not name.endswith(".grad")}
    return transformer_rope.function(ids, parameters, h=h)


# What the audit is told of these models' common part.
EQUIVALENT = {
    "transformer_at: q.shape[-1] ** (-0.5) -> q.shape[-1] ** (-0.505), bfloat16": (
        "one per cent off the scores at most: less than bfloat16 leaves of a score"
    ),
}
