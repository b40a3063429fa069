"""A transformer language model whose positions are sinusoids of learned frequencies, put through a learned network.

After "A Simple yet Effective Learnable Positional Encoding Method for Improving Document Transformer Model" (Wang et al. 2022,
Findings of AACL). No code of it was found and the abstract leaves these points open; this is our reading of it:
- What is added to the embedding of position p is W2 gelu(W1 s(p) + b1) + b2, with s(p) = sin(w_m p), cos(w_m p), alternating.
- There are 16 frequencies w_m, whatever the width; they are parameters, and start at those of `sinusoidal`, 10000^(-m/16).
- The network is as wide inside as the model, and nothing goes around it. The embedding is not multiplied by sqrt(d).
- Positions are whole numbers from 0; there is no longest input. The skeleton is `_decoder`.
"""

import torch
from torch import Tensor

from harness.spec import spec
from harness.specs._decoder import CASES, CONTRACT, PARAMETERS, SIZES, gelu, give_laws, give_work, linear
from harness.specs._transformer import transformer
from harness.specs.sinusoidal import alternate

NETWORK = """
    positions.frequency[16]
    positions.up.weight[d 32], positions.up.bias[d]
    positions.down.weight[d d], positions.down.bias[d]
"""


@spec(CONTRACT, parameters=NETWORK + PARAMETERS, cases=CASES, **SIZES)
def transformer_learnable_sinusoidal(ids: Tensor, parameters: dict[str, Tensor], *, h: int = 4) -> Tensor:
    return transformer(ids, parameters, h, positions=_positions(parameters, torch.arange(ids.shape[1], device=ids.device)))


def _positions(parameters, position, activation=gelu, features=alternate):
    """Rows [n d] of these positions."""
    angle = position.double()[:, None] * parameters["positions.frequency"]
    return linear(activation(linear(features(angle), "positions.up", parameters)), "positions.down", parameters)


give_laws(transformer_learnable_sinusoidal)
give_work(transformer_learnable_sinusoidal)


def _mistaken(name: str, rows, visibility: str = "causal") -> None:
    """A mistake of the positions: `rows(parameters, position)`."""

    def wrong(ids, parameters, *, h):
        positions = rows(parameters, torch.arange(ids.shape[1]))
        return transformer(ids, parameters, h, positions=positions, visibility=visibility)

    transformer_learnable_sinusoidal.mistake(name)(wrong)


def _fixed(parameters):
    return parameters | {"positions.frequency": parameters["positions.frequency"].detach()}


def _sines_first(angle):
    return torch.cat([angle.sin(), angle.cos()], -1)


_mistaken("sees the future", _positions, "full")
_mistaken("has no positions", lambda parameters, position: None)
_mistaken("the frequencies learn nothing", lambda parameters, position: _positions(_fixed(parameters), position))
_mistaken("the network has relu", lambda parameters, position: _positions(parameters, position, torch.relu))
_mistaken("the network is linear", lambda parameters, position: _positions(parameters, position, lambda x: x))
_mistaken("sines come before cosines", lambda parameters, position: _positions(parameters, position, features=_sines_first))
_mistaken("positions count from one", lambda parameters, position: _positions(parameters, position + 1))
_mistaken(
    "positions are a share of the sequence",
    lambda parameters, position: _positions(parameters, position / max(1, len(position) - 1)),
)
