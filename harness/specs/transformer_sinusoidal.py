"""A transformer language model with sinusoids added to its embedding (Vaswani et al. 2017, arXiv:1706.03762, sections 3.4, 3.5).

The embedding is multiplied by sqrt(d) before the sinusoid of its position is added, as in section 3.4 and tensor2tensor; much
other code leaves the factor out. The sinusoids are those of `sinusoidal`: sines and cosines alternate, positions start at 0.
They go on for ever, so there is no longest input. The skeleton is `_decoder`, pre-norm where the paper has post-norm.
"""

import torch
from torch import Tensor

from harness.spec import Bunch, Case, spec
from harness.specs import _decoder
from harness.specs._decoder import CASES, CONTRACT, PARAMETERS, SIZES, give_laws, give_work
from harness.specs._transformer import transformer
from harness.specs.sinusoidal import sinusoidal


@spec(CONTRACT, parameters=PARAMETERS, cases=CASES, **SIZES)
def transformer_sinusoidal(ids: Tensor, parameters: dict[str, Tensor], *, h: int = 4) -> Tensor:
    d = parameters["embedding.weight"].shape[1]
    return _with(ids, parameters, h, sinusoidal(torch.arange(ids.shape[1], device=ids.device), d=d), d**0.5)


def _with(ids, parameters, h, positions, factor, visibility="causal"):
    scaled = {**parameters, "embedding.weight": factor * parameters["embedding.weight"]}
    return transformer(ids, scaled, h, positions=positions, visibility=visibility)


give_laws(transformer_sinusoidal)
give_work(transformer_sinusoidal)


@transformer_sinusoidal.family
def sharp(x: Bunch, case: Case, rng: torch.Generator):
    """As in the other models, and tokens that nearly cancel the first position: there eps shows, and the factor."""
    first = sinusoidal(torch.zeros(1), d=case.d)
    faint = _decoder.sharp(x, case, rng)
    return faint | {"embedding.weight": (faint["embedding.weight"] - first) / case.d**0.5}


def _mistaken(name: str, positions, factor=lambda d: d**0.5, visibility: str = "causal") -> None:
    """A mistake of what is added to the embedding: `positions(position, d)` are its rows, `factor(d)` that of the embedding."""

    def wrong(ids, parameters, *, h):
        d = parameters["embedding.weight"].shape[1]
        return _with(ids, parameters, h, positions(torch.arange(ids.shape[1]), d), factor(d), visibility)

    transformer_sinusoidal.mistake(name)(wrong)


def _rows(position, d):
    return sinusoidal(position, d=d)


def _of_mistake(name: str):
    return lambda position, d: sinusoidal.mistakes[name].function(position, d=d, base=10000.0)


_mistaken("sees the future", _rows, visibility="full")
_mistaken("has no positions", lambda position, d: None)
_mistaken("the embedding is not multiplied by sqrt(d)", _rows, lambda d: 1.0)
_mistaken("the sinusoids are multiplied by sqrt(d) too", lambda position, d: d**0.5 * _rows(position, d))
_mistaken("positions count from one", lambda position, d: _rows(position + 1, d))
_mistaken("positions count from the end", lambda position, d: _rows(position, d).flip(0))
_mistaken("all sines come before all cosines", _of_mistake("all sines come before all cosines"))
_mistaken("both ends of the range of frequencies are included", _of_mistake("both ends of the range of frequencies are included"))
