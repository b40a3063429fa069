"""A transformer language model whose queries and keys are turned by their position (Su et al. 2021, arXiv:2104.09864).

Rotary positions with adjacent pairs and base 10000 in every layer, on queries and keys, not on values; nothing is
added to the embedding. The skeleton is `_decoder`.
"""

from itertools import count

import torch
from torch import Tensor

from harness.spec import spec
from harness.specs._decoder import CASES, CONTRACT, PARAMETERS, SIZES, decoder, give_laws, give_work, join, split
from harness.specs.attention import attention
from harness.specs.rotary import rotary


@spec(CONTRACT, parameters=PARAMETERS, cases=CASES, **SIZES)
def transformer_rope(ids: Tensor, parameters: dict[str, Tensor], *, h: int = 4) -> Tensor:
    position = torch.arange(ids.shape[1], device=ids.device)

    def mix(x, project):
        q, k, v = (split(project(x, name), h) for name in "qkv")
        out = attention(rotary(q, position), rotary(k, position), v, visibility="causal")
        return project(join(out), "o")

    return decoder(ids, parameters, mix)


EQUIVALENT = dict.fromkeys(
    ("decoder: x = x + positions -> (dropped)", "decoder: x + positions -> x - positions"),
    "this model adds no positions to the embedding",
)

give_laws(transformer_rope)
give_work(transformer_rope)


def _wrong(ids, parameters, h, turn=rotary, turn_value=None, attend=attention, visibility="causal"):
    position = torch.arange(ids.shape[1])

    def mix(x, project):
        q, k, v = (split(project(x, name), h) for name in "qkv")
        v = v if turn_value is None else turn_value(v, position)
        return project(join(attend(turn(q, position), turn(k, position), v, visibility=visibility)), "o")

    return decoder(ids, parameters, mix)


@transformer_rope.mistake("sees the future")
def _(ids, parameters, *, h):
    return _wrong(ids, parameters, h, visibility="full")


@transformer_rope.mistake("has no positions")
def _(ids, parameters, *, h):
    return _wrong(ids, parameters, h, turn=lambda x, position: x)


@transformer_rope.mistake("every fourth layer has no positions")
def _(ids, parameters, *, h):
    asked = count()  # it is asked for queries and for keys of each layer
    return _wrong(ids, parameters, h, turn=lambda x, position: x if next(asked) // 2 % 4 == 3 else rotary(x, position))


@transformer_rope.mistake("values are turned too")
def _(ids, parameters, *, h):
    return _wrong(ids, parameters, h, turn_value=rotary)


@transformer_rope.mistake("turns before the heads are split")
def _(ids, parameters, *, h):
    def across(x, position):
        return split(rotary(join(x)[:, None], position)[:, 0], h)

    return _wrong(ids, parameters, h, turn=across)


@transformer_rope.mistake("the base is 500")
def _(ids, parameters, *, h):
    return _wrong(ids, parameters, h, turn=lambda x, position: rotary(x, position, base=500.0))


@transformer_rope.mistake("halves are paired instead of neighbours")
def _(ids, parameters, *, h):
    halves = rotary.mistakes["halves are paired instead of neighbours"].function
    return _wrong(ids, parameters, h, turn=lambda x, position: halves(x, position, base=10000.0))


@transformer_rope.mistake("scores are exponentiated as they are")
def _(ids, parameters, *, h):
    def without_maximum(q, k, v, visibility):
        heard = (q @ k.mT * q.shape[-1] ** -0.5).float().exp().tril()  # float32 is what it overflows in
        return (heard / heard.sum(-1, keepdim=True)).double() @ v

    return _wrong(ids, parameters, h, attend=without_maximum)
