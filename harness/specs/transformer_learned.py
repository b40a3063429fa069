"""A transformer language model with a learned row for each position (Vaswani et al. 2017, arXiv:1706.03762, section 3.5).

Row i of `positions` is added to the embedding of token i, unscaled. The table has t rows; there is nothing beyond it
(neither clamped nor wrapped): more tokens are not an input of this model. The skeleton is `_decoder`.
"""

from torch import Tensor

from harness.spec import spec
from harness.specs._decoder import CASES, CONTRACT, PARAMETERS, SIZES, decoder, give_laws, give_work, join, split
from harness.specs.attention import attention

WITH_TABLE = {**CASES, "long": {"n": 150, "b": 1, "l": 1, "t": 160}, "whole_table": {"n": 53}}


@spec(CONTRACT, parameters="positions.weight[t d]," + PARAMETERS, cases=WITH_TABLE, **SIZES, t=53)
def transformer_learned(ids: Tensor, parameters: dict[str, Tensor], *, h: int = 4) -> Tensor:
    return _with(ids, parameters, h, parameters["positions.weight"][: ids.shape[1]])


def _with(ids, parameters, h, positions, visibility="causal"):
    def mix(x, project):
        q, k, v = (split(project(x, name), h) for name in "qkv")
        return project(join(attention(q, k, v, visibility=visibility)), "o")

    return decoder(ids, parameters, mix, positions)


give_laws(transformer_learned)
give_work(transformer_learned)


@transformer_learned.mistake("sees the future")
def _(ids, parameters, *, h):
    return _with(ids, parameters, h, parameters["positions.weight"][: ids.shape[1]], visibility="full")


@transformer_learned.mistake("has no positions")
def _(ids, parameters, *, h):
    return _with(ids, parameters, h, None)


@transformer_learned.mistake("counts from the end of the table")
def _(ids, parameters, *, h):
    return _with(ids, parameters, h, parameters["positions.weight"][-ids.shape[1] :])


@transformer_learned.mistake("every token has the first position")
def _(ids, parameters, *, h):
    return _with(ids, parameters, h, parameters["positions.weight"][0])
