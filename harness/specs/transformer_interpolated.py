"""A transformer language model whose rotary positions are divided by a factor (Chen et al. 2023, arXiv:2306.15595).

It is `transformer_rope` extended after training: positions up to `factor` times the training length are squeezed into those that
training showed, divided and not rounded, in every layer. The parameters are those of `transformer_rope`, and what is gained is
gained by a short fine-tune, or not at all. The skeleton is `_decoder`.
"""

import torch
from torch import Tensor

from harness.spec import Bunch, spec
from harness.specs._decoder import CASES, CONTRACT, PARAMETERS, SIZES, give_laws, give_work
from harness.specs._distances import plain
from harness.specs._transformer import NO_POSITIONS, transformer
from harness.specs.position_interpolation import position_interpolation

FACTORS: dict[str, dict] = {**CASES, "by_sixteen": {"factor": 16.0}, "by_a_fraction": {"factor": 2.5}}


@spec(CONTRACT, parameters=PARAMETERS, cases=FACTORS, **SIZES)
def transformer_interpolated(ids: Tensor, parameters: dict[str, Tensor], *, h: int = 4, factor: float = 4.0) -> Tensor:
    return _with(ids, parameters, h, lambda x, position: position_interpolation(x, position, factor=factor))


def _with(ids, parameters, h, turned, turned_key=None):
    position = torch.arange(ids.shape[1], device=ids.device)

    def turn(q, k, v):
        return turned(q, position), (turned_key or turned)(k, position), v

    return transformer(ids, parameters, h, turn=turn)


EQUIVALENT = NO_POSITIONS

give_laws(transformer_interpolated)
give_work(transformer_interpolated)


@transformer_interpolated.law
def a_factor_of_one_is_a_plain_transformer(run, x: Bunch, rng):
    return run(x, factor=1.0).logits, plain(x, x.ids, run.case.h)


def _mistake(name: str, turned, turned_key=None):
    @transformer_interpolated.mistake(name)
    def _(ids, parameters, *, h, factor):
        key = None if turned_key is None else lambda x, position: turned_key(x, position, factor)
        return _with(ids, parameters, h, lambda x, position: turned(x, position, factor), key)


def _at(x: Tensor, position: Tensor, factor: float, base: float = 10000.0) -> Tensor:
    return position_interpolation(x, position, factor=factor, base=base)


_mistake("positions are not divided", lambda x, position, factor: _at(x, position, 1.0))
_mistake("positions are multiplied", lambda x, position, factor: _at(x, position, 1 / factor))
_mistake("positions are rounded", lambda x, position, factor: _at(x, (position / factor).floor().long(), 1.0))
_mistake("the factor is a whole number", lambda x, position, factor: _at(x, position, float(int(factor))))
_mistake("the base is changed instead", lambda x, position, factor: _at(x, position, 1.0, 10000.0 * factor))
_mistake("keys keep their positions", _at, lambda x, position, factor: _at(x, position, 1.0))
