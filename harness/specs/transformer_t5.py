"""A transformer language model with T5's relative position bias (Raffel et al. 2020, arXiv:1910.10683, section 2.1).

Where papers and libraries disagree, this side is taken:
- 32 buckets up to distance 128, causal: those of `relative_bias` in one direction, as in T5's decoder.
- All layers share one table, which belongs to the first, as in T5.
- Scores are not scaled by d^-1/2, as in T5, which has the factor in the first values of the queries; the bias is added to them.
- Nothing else is T5's: layers are those of `_decoder`, with its norms, and there is no encoder.
"""

import torch
from torch import Tensor

from harness.spec import Bunch, Case, spec
from harness.specs._decoder import CASES, CONTRACT, PARAMETERS, SIZES, give_laws, give_work
from harness.specs._transformer import NO_POSITIONS, transformer
from harness.specs.relative_bias import relative_bias

TABLE = "blocks.0.mixer.bias.weight[32 h]"


@spec(CONTRACT, parameters=PARAMETERS + TABLE, cases=CASES, **SIZES)
def transformer_t5(ids: Tensor, parameters: dict[str, Tensor], *, h: int = 4) -> Tensor:
    return transformer(ids, parameters, h, bias=_bias(ids, parameters), scale=1.0)


def _bias(ids, parameters, **options):
    position = torch.arange(ids.shape[1], device=ids.device)
    return relative_bias(parameters["blocks.0.mixer.bias.weight"], position, position, **{"bidirectional": False, **options})


EQUIVALENT = NO_POSITIONS

give_laws(transformer_t5)
give_work(transformer_t5)


@transformer_t5.family
def large(x: Bunch, case: Case, rng: torch.Generator):
    """Tokens of two kinds take turns: their scores are about 16 and -16, and the bias takes back as much, until it hides what is
    far. One per cent more of either is seen in every dtype."""
    kind, odd_distance = (2.0 * (torch.arange(size) % 2) - 1 for size in (case.v, 16))
    of_kind = torch.randn(case.h, case.d // case.h, generator=rng, dtype=torch.float64)
    of_kind = (of_kind / of_kind.square().mean(-1, keepdim=True).sqrt()).flatten()
    bias = 16 * torch.cat([odd_distance, torch.full((16,), -4.0)])
    own = torch.eye(case.d, dtype=torch.float64) * (16 * case.h / case.d) ** 0.5
    return {
        "ids": x.ids % (case.v // 2) * 2 + torch.arange(case.n) % 2,
        "embedding.weight": x["embedding.weight"] + 2 * kind[:, None] * of_kind,
        "blocks.0.mixer.bias.weight": x["blocks.0.mixer.bias.weight"] + bias[:, None],
        **{name: own for name in x if name.endswith(("mixer.q.weight", "mixer.k.weight"))},
    }


@transformer_t5.mistake("sees the future")
def _(ids, parameters, *, h):
    return transformer(ids, parameters, h, bias=_bias(ids, parameters), scale=1.0, visibility="full")


@transformer_t5.mistake("has no positions")
def _(ids, parameters, *, h):
    return transformer(ids, parameters, h, scale=1.0)


@transformer_t5.mistake("scores are scaled by d^-1/2")
def _(ids, parameters, *, h):
    return transformer(ids, parameters, h, bias=_bias(ids, parameters))


@transformer_t5.mistake("the bias is scaled by d^-1/2")
def _(ids, parameters, *, h):
    d = parameters["embedding.weight"].shape[1]
    return transformer(ids, parameters, h, bias=_bias(ids, parameters) * (d / h) ** -0.5, scale=1.0)


@transformer_t5.mistake("half of the buckets are for the future")
def _(ids, parameters, *, h):
    return transformer(ids, parameters, h, bias=_bias(ids, parameters, bidirectional=True), scale=1.0)


@transformer_t5.mistake("the last bucket begins at 64")
def _(ids, parameters, *, h):
    return transformer(ids, parameters, h, bias=_bias(ids, parameters, distance=64), scale=1.0)


@transformer_t5.mistake("far keys are in the near buckets")
def _(ids, parameters, *, h):
    flipped = {**parameters, "blocks.0.mixer.bias.weight": parameters["blocks.0.mixer.bias.weight"].flip(0)}
    return transformer(ids, parameters, h, bias=_bias(ids, flipped), scale=1.0)


@transformer_t5.mistake("the bias learns nothing")
def _(ids, parameters, *, h):
    return transformer(ids, parameters, h, bias=_bias(ids, parameters).detach(), scale=1.0)
