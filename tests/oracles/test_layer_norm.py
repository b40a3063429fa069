"""The reference of layer normalisation against torch's own in float64, values and gradients."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from harness.spec import Bunch
from harness.specs.layer_norm import layer_norm


@pytest.mark.parametrize("family", layer_norm.families)
@pytest.mark.parametrize("name", layer_norm.cases)
def test_values_and_gradients_are_those_of_torch(name: str, family: str, agree: Any) -> None:
    case = layer_norm.case(name, torch.float64)
    x = layer_norm.inputs(case, family, cotangents=True)
    leaves = Bunch({name: x[name].requires_grad_() for name in layer_norm.differentiable(case)})
    ours = layer_norm.reference(leaves, case).out
    theirs = F.layer_norm(leaves.x, (case.d,), leaves.weight, leaves.bias, case.eps)
    agree(ours, theirs)
    gradients = [torch.autograd.grad(out, list(leaves.values()), x["out.grad"]) for out in (ours, theirs)]
    for our, their in zip(*gradients, strict=True):
        agree(our, their)
