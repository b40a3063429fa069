"""A transformer language model with xPos: rotary positions whose scores fade with distance (Sun et al. 2022, arXiv:2212.10554).

Where papers and libraries disagree, this side is taken:
- Scores are those of `xpos`, in every layer, then scaled by d^-1/2; values are neither turned nor scaled.
- The scale base is half of t, the length that the model is trained at: 512 at the paper's 1024. With 512 at short lengths
  next to nothing fades, and the model is that of rotary positions.
- Attention is causal and complete at every length. The paper's second half, attention in blocks where a sequence is longer than
  those of the training, is another model. The skeleton is `_decoder`.
"""

import torch
from torch import Tensor

from harness.spec import spec
from harness.specs._decoder import CASES, CONTRACT, PARAMETERS, SIZES, give_laws, give_work
from harness.specs._transformer import NO_POSITIONS, transformer
from harness.specs.rotary import angles, rotary, rotate
from harness.specs.xpos import scales, shrinking

WITH_BASES = {**CASES, "paper": {"t": 1024}, "short_base": {"t": 7}}


@spec(CONTRACT, parameters=PARAMETERS, cases=WITH_BASES, **SIZES)
def transformer_xpos(ids: Tensor, parameters: dict[str, Tensor], *, h: int = 4, t: int = 16) -> Tensor:
    return _with(ids, parameters, h, t / 2)


def _with(ids, parameters, h, scale_base, change=lambda of_q, of_k: (of_q, of_k), visibility="causal", turn_value=None):
    position = torch.arange(ids.shape[1], dtype=torch.float64, device=ids.device)

    def turn(q, k, v):
        d = q.shape[-1]
        of_q, of_k = change(*scales(position, position, shrinking(d, ids.device), scale_base))
        q = rotate(q, angles(position, d)) * of_q.repeat_interleave(2, -1)
        k = rotate(k, angles(position, d)) * of_k.repeat_interleave(2, -1)
        return q, k, v if turn_value is None else turn_value(v, position)

    return transformer(ids, parameters, h, turn=turn, visibility=visibility)


EQUIVALENT = NO_POSITIONS | {
    "_with: v if turn_value is None else turn_value(v, position) -> v": "only mistakes turn values",
    **dict.fromkeys(
        (
            "_with: of_q.repeat_interleave(2, -1) -> of_q.repeat_interleave(2, 1)",
            "_with: of_k.repeat_interleave(2, -1) -> of_k.repeat_interleave(2, 1)",
        ),
        "scales have two axes, places and pairs: the last is axis 1",
    ),
}

give_laws(transformer_xpos)
give_work(transformer_xpos)


@transformer_xpos.mistake("sees the future")
def _(ids, parameters, *, h, t):
    return _with(ids, parameters, h, t / 2, visibility="full")


@transformer_xpos.mistake("nothing fades: plain rotary positions")
def _(ids, parameters, *, h, t):
    return _with(ids, parameters, h, t / 2, lambda of_q, of_k: (torch.ones_like(of_q), torch.ones_like(of_k)))


@transformer_xpos.mistake("scores grow with distance")
def _(ids, parameters, *, h, t):
    return _with(ids, parameters, h, t / 2, lambda of_q, of_k: (1 / of_q, 1 / of_k))


@transformer_xpos.mistake("keys are scaled like queries")
def _(ids, parameters, *, h, t):
    return _with(ids, parameters, h, t / 2, lambda of_q, of_k: (of_q, 1 / of_k))


@transformer_xpos.mistake("the scale base is the length of the training")
def _(ids, parameters, *, h, t):
    return _with(ids, parameters, h, t)


@transformer_xpos.mistake("the scale base is 512")
def _(ids, parameters, *, h, t):
    return _with(ids, parameters, h, 512)


@transformer_xpos.mistake("the first pairs fade least")
def _(ids, parameters, *, h, t):
    return _with(ids, parameters, h, t / 2, lambda of_q, of_k: (of_q.flip(-1), of_k.flip(-1)))


@transformer_xpos.mistake("values are turned too")
def _(ids, parameters, *, h, t):
    return _with(ids, parameters, h, t / 2, turn_value=rotary)


@transformer_xpos.mistake("half of an odd t is rounded down")
def _(ids, parameters, *, h, t):
    return _with(ids, parameters, h, t // 2)
