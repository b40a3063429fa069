"""A language model of LSTM layers (Hochreiter and Schmidhuber 1997), each in place of a transformer's attention.

- Each layer has the cells of `lstm`, as many as the model is wide, from a past of zeros. They read the norm of the residual
  stream and write into it; a feed-forward part follows, as in the other models. The classic stack of LSTM layers has neither
  norms nor residuals nor feed-forward parts, and trains worse.
- A layer has twice the matrices of attention, and no matrix after it: with a feed-forward part of half the width (f = 2d in
  place of 4d) the model has as many parameters as a transformer.
- The skeleton is `_decoder`. Nothing else tells positions, and there is no longest input.
"""

from typing import Any

import torch
from torch import Tensor

from harness.spec import spec
from harness.specs._decoder import CONTRACT, decoder, give_laws
from harness.specs._mixer import AROUND, own
from harness.specs._transformer import NO_POSITIONS
from harness.specs.lstm import lstm

CELLS = """
    blocks.*.mixer.input.weight[4 d d], blocks.*.mixer.input.bias[4 d]
    blocks.*.mixer.hidden.weight[4 d d], blocks.*.mixer.hidden.bias[4 d]
"""
CASES = {
    "plain": {},
    "one_token": {"n": 1},
    "long": {"n": 140, "b": 1, "l": 1},  # a state that is lost between chunks
    "beyond_a_chunk": {"n": 140, "b": 2, "l": 2, "d": 8, "f": 8, "v": 5},  # a state that is another row's or layer's there
    "three_layers": {"l": 3, "n": 9, "b": 1},
    "wide": {"d": 80, "n": 7, "l": 1},
    "narrow": {"d": 3},
}


@spec(CONTRACT, parameters=AROUND + CELLS, cases=CASES, b=3, n=19, d=24, f=40, v=29, l=2)
def lstm_lm(ids: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    return _with(ids, parameters)


def _with(ids, parameters, run=lstm):
    def mix(x, project):
        weights = {f"{of}_{what}": own(project, f"{of}.{what}") for of in ("input", "hidden") for what in ("weight", "bias")}
        nothing = torch.zeros_like(x[:, 0])
        out, _, _ = run(x, nothing, nothing, **weights)
        return out

    return decoder(ids, parameters, mix)


EQUIVALENT = NO_POSITIONS | {
    "_with: x[:, 0] -> x[:, -1]": "only its shape is read, and every token has the same",
}

give_laws(lstm_lm)


def _like(name: str) -> None:
    """A mistake of `lstm`, in every layer."""
    lstm_lm.mistake(name)(lambda ids, parameters: _with(ids, parameters, lstm.mistakes[name].function))


for _name in (
    "gates stand in the order i, f, o, g",
    "input and forget gate are swapped",
    "1 is added to the forget gate",
    "the cell is put out without tanh",
    "the hidden bias is dropped",
    "the hidden weight is transposed",
    "the cell starts anew at each edge of 16",
    "backward through time stops after 16 steps",
):
    _like(_name)


@lstm_lm.mistake("reads from the end")
def _(ids, parameters):
    def backwards(x, past, cell, **weights):
        out, *state = lstm(x.flip(1), past, cell, **weights)
        return out.flip(1), *state

    return _with(ids, parameters, backwards)


@lstm_lm.mistake("a layer starts where the one before has ended")
def _(ids, parameters):
    ended: list[Any] = []

    def handed_on(x, past, cell, **weights):
        out, *state = lstm(x, *(ended[-1] if ended else (past, cell)), **weights)
        ended.append(state)
        return out, *state

    return _with(ids, parameters, handed_on)


@lstm_lm.mistake("after 64 tokens a row goes on from the state of another")
def _(ids, parameters):
    def exchanged(x, past, cell, **weights):
        first, *state = lstm(x[:, :64], past, cell, **weights)
        if x.shape[1] <= 64:
            return first, *state
        rest, *state = lstm(x[:, 64:], *(each.flip(0) for each in state), **weights)
        return torch.cat([first, rest], 1), *state

    return _with(ids, parameters, exchanged)
