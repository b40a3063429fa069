"""The reference of transformers with rotary positions that are told other distances than the true ones after training."""

from collections.abc import Mapping

import torch
from torch import Tensor

from harness.spec import Bunch
from harness.specs._decoder import decoder, join, split
from harness.specs.attention import averaged
from harness.specs.rotary import rotary
from harness.specs.transformer_rope import transformer_rope


def transformer_at(ids: Tensor, parameters: Mapping[str, Tensor], h: int, distance: Tensor, seen: Tensor) -> Tensor:
    """ids[b n] -> logits[b n v]: the score of a query and a key is that of rotary positions `distance` [n n] apart.

    Query by query and key by key: each query is turned by the distance to each key, and keys are not turned."""
    n = ids.shape[1]

    def mix(x, project):
        q, k, v = (split(project(x, name), h) for name in "qkv")
        turned = rotary(q.repeat_interleave(n, dim=2), distance.flatten()).unflatten(2, (n, n))
        score = (turned * k[:, :, None]).sum(-1) * q.shape[-1] ** -0.5
        return project(join(averaged(v, score.masked_fill(~seen, -torch.inf))), "o")

    return decoder(ids, parameters, mix)


def plain(x: Bunch, ids: Tensor, h: int) -> Tensor:
    """What the plain model with rotary positions says of these ids, by the parameters in x; in float64."""
    parameters = {name: x[name].double() for name in x if name != "ids" and not name.endswith(".grad")}
    return transformer_rope.function(ids, parameters, h=h)


def steps(n: int) -> tuple[Tensor, Tensor]:
    """The places of queries [n 1] and keys [1 n]."""
    place = torch.arange(n)
    return place[:, None], place


# What the audit is told of these models' common part.
EQUIVALENT = {
    "transformer_at: q.shape[-1] ** (-0.5) -> q.shape[-1] ** (-0.505), bfloat16": (
        "one per cent off the scores at most: less than bfloat16 leaves of a score"
    ),
}
