"""A transformer language model without positions, NoPE (Haviv et al. 2022, arXiv:2203.16634; Kazemnejad et al., 2305.19466).

Nothing tells a position but what the causal mask hides: one layer sees the tokens before its own as a set, two do not.
The skeleton is `_decoder`.
"""

import torch
from torch import Tensor

from harness.spec import spec
from harness.specs._decoder import CASES, CONTRACT, PARAMETERS, SIZES, give_laws, give_work
from harness.specs._transformer import NO_POSITIONS, give_set_law, transformer
from harness.specs.alibi import alibi
from harness.specs.rotary import rotary
from harness.specs.sinusoidal import sinusoidal


@spec(CONTRACT, parameters=PARAMETERS, cases=CASES, **SIZES)
def transformer_nope(ids: Tensor, parameters: dict[str, Tensor], *, h: int = 4) -> Tensor:
    return transformer(ids, parameters, h)


EQUIVALENT = NO_POSITIONS

give_laws(transformer_nope)
give_work(transformer_nope)
give_set_law(transformer_nope)


@transformer_nope.mistake("sees the future")
def _(ids, parameters, *, h):
    return transformer(ids, parameters, h, visibility="full")


@transformer_nope.mistake("rotary positions are left in")
def _(ids, parameters, *, h):
    position = torch.arange(ids.shape[1])
    return transformer(ids, parameters, h, turn=lambda q, k, v: (rotary(q, position), rotary(k, position), v))


@transformer_nope.mistake("sinusoids are left in")
def _(ids, parameters, *, h):
    d = parameters["embedding.weight"].shape[1]
    return transformer(ids, parameters, h, positions=sinusoidal(torch.arange(ids.shape[1]), d=d))


@transformer_nope.mistake("ALiBi is left in")
def _(ids, parameters, *, h):
    position = torch.arange(ids.shape[1])
    return transformer(ids, parameters, h, bias=alibi(position, position, h=h))


@transformer_nope.mistake("scores are not scaled")
def _(ids, parameters, *, h):
    return transformer(ids, parameters, h, scale=1.0)


@transformer_nope.mistake("a token does not see itself")
def _(ids, parameters, *, h):
    n = ids.shape[1]
    itself = torch.eye(n, dtype=torch.float64)
    itself[0] = 0  # the first has nobody else
    return transformer(ids, parameters, h, bias=-1e4 * itself.expand(h, n, n))
