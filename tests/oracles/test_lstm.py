"""The reference of the LSTM against torch's nn.LSTM in float64, values, states and gradients."""

from typing import Any

import pytest
import torch
from torch import nn

from harness.specs.lstm import WEIGHTS, lstm

NAMES = dict(zip(WEIGHTS, ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"), strict=True))
INPUTS = ("x", "past", "past_cell", *WEIGHTS)


@pytest.mark.parametrize("family", lstm.families)
@pytest.mark.parametrize("name", lstm.cases)
def test_nn_lstm(name: str, family: str, agree: Any) -> None:
    case = lstm.case(name, torch.float64)
    x = lstm.inputs(case, family, cotangents=True)
    cotangents = [x[f"{output.name}.grad"] for output in lstm.contract.outputs]
    leaves = {name: x[name].clone().requires_grad_() for name in INPUTS}
    ours = list(lstm.reference(leaves, case).values())
    gradients = torch.autograd.grad(ours, list(leaves.values()), cotangents)

    module = nn.LSTM(case.d, case.e, batch_first=True, dtype=torch.float64)
    module.load_state_dict({NAMES[weight]: x[weight].flatten(0, 1) for weight in WEIGHTS})
    given = [x[name].clone().requires_grad_() for name in ("x", "past", "past_cell")]
    out, (hidden, cell) = module(given[0], (given[1].unsqueeze(0), given[2].unsqueeze(0)))
    theirs = [out, hidden.squeeze(0), cell.squeeze(0)]
    parameters = [getattr(module, NAMES[weight]) for weight in WEIGHTS]
    their_gradients = torch.autograd.grad(theirs, [*given, *parameters], cotangents)
    for our, their in zip((*ours, *gradients), (*theirs, *their_gradients), strict=True):
        agree(our, their.reshape(our.shape))
