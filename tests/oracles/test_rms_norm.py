"""The reference of root mean square normalisation against torch's nn.RMSNorm in float64, values and gradients."""

from typing import Any

import pytest
import torch
from torch import nn

from harness.specs.rms_norm import rms_norm


@pytest.mark.parametrize("family", rms_norm.families)
@pytest.mark.parametrize("name", rms_norm.cases)
def test_values_and_gradients_are_those_of_torch(name: str, family: str, agree: Any) -> None:
    case = rms_norm.case(name, torch.float64)
    x = rms_norm.inputs(case, family, cotangents=True)
    module = nn.RMSNorm(case.d, eps=case.eps, dtype=torch.float64)
    module.load_state_dict({"weight": x.weight})
    x.x.requires_grad_()
    x.weight.requires_grad_()
    ours, theirs = rms_norm.reference(x, case).out, module(x.x)
    agree(ours, theirs)
    our_gradients = torch.autograd.grad(ours, [x.x, x.weight], x["out.grad"])
    their_gradients = torch.autograd.grad(theirs, [x.x, module.weight], x["out.grad"])
    for our, their in zip(our_gradients, their_gradients, strict=True):
        agree(our, their)
