"""A transformer language model that knows positions from linear biases alone (Press et al. 2021, arXiv:2108.12409).

The bias is added to scores already scaled by d^-1/2 and is itself not scaled. The skeleton is `_decoder`.
"""

import torch
from torch import Tensor

from harness.spec import Case, spec
from harness.specs._decoder import CASES, CONTRACT, PARAMETERS, SIZES, decoder, give_laws, give_work, join, split
from harness.specs.alibi import alibi, slopes
from harness.specs.attention import attention

# Of more than eight heads, slopes between whole powers of two.
MORE_HEADS = {**CASES, "six_heads": {"h": 6, "d": 24}, "twelve_heads": {"h": 12, "d": 24, "f": 8, "b": 1, "l": 1}}


@spec(CONTRACT, parameters=PARAMETERS, cases=MORE_HEADS, **SIZES)
def transformer_alibi(ids: Tensor, parameters: dict[str, Tensor], *, h: int = 4) -> Tensor:
    position = torch.arange(ids.shape[1], device=ids.device)
    return _with(ids, parameters, h, alibi(position, position, h=h))


def _with(ids, parameters, h, bias, visibility="causal"):
    def mix(x, project):
        q, k, v = (split(project(x, name), h) for name in "qkv")
        return project(join(attention(q, k, v, bias, visibility=visibility)), "o")

    return decoder(ids, parameters, mix)


EQUIVALENT = dict.fromkeys(
    ("decoder: x = x + positions -> (dropped)", "decoder: x + positions -> x - positions"),
    "this model adds no positions to the embedding",
)

give_laws(transformer_alibi)
give_work(transformer_alibi)


@transformer_alibi.fades
def _(k: Tensor, case: Case, parameters: dict[str, Tensor]) -> Tensor:
    """The weight of a token, of that of an equal one at hand."""
    return torch.exp(-slopes(case.h).min() * k)


def _bias(ids, h):
    position = torch.arange(ids.shape[1])
    return alibi(position, position, h=h)


@transformer_alibi.mistake("sees the future")
def _(ids, parameters, *, h):
    return _with(ids, parameters, h, _bias(ids, h), visibility="full")


@transformer_alibi.mistake("has no positions")
def _(ids, parameters, *, h):
    return _with(ids, parameters, h, None)


@transformer_alibi.mistake("the bias is scaled like the scores")
def _(ids, parameters, *, h):
    return _with(ids, parameters, h, _bias(ids, h) * (parameters["embedding.weight"].shape[1] / h) ** -0.5)


@transformer_alibi.mistake("far keys are liked better")
def _(ids, parameters, *, h):
    return _with(ids, parameters, h, -_bias(ids, h))


@transformer_alibi.mistake("all heads have the first slope")
def _(ids, parameters, *, h):
    return _with(ids, parameters, h, _bias(ids, h)[:1])


@transformer_alibi.mistake("heads beyond the eighth have its slope")
def _(ids, parameters, *, h):
    return _with(ids, parameters, h, _bias(ids, h)[torch.arange(h).clamp(max=7)])


@transformer_alibi.mistake("slopes are given to the heads in reverse")
def _(ids, parameters, *, h):
    return _with(ids, parameters, h, _bias(ids, h).flip(0))
