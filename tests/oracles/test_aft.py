"""The reference of AFT against scaled_dot_product_attention: channels are heads, queries are zero, keys go into the bias."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.spec import Bunch, Case
from harness.specs.aft import aft


def bias_of(x: Bunch, case: Case) -> Tensor:
    """[n m], element by element: w, 0 outside the window, -inf for the future."""
    rows = []
    for i in range(case.n):
        place = case.m - case.n + i
        given = [x.bias[i, j] if case.bias else x.k.new_zeros(()) for j in range(case.m)]
        local = [0 * w if case.window and not -case.window < place - j < case.window else w for j, w in enumerate(given)]
        rows.append(torch.stack([w - torch.inf if case.causal and j > place else w for j, w in enumerate(local)]))
    return torch.stack(rows)


def sdpa(x: Bunch, case: Case) -> Tensor:
    values = x.v.mT.unsqueeze(-1)
    mask = x.k.mT.unsqueeze(2) + bias_of(x, case)
    nothing = torch.zeros(case.b, case.d, case.n, 1, dtype=torch.float64)
    mean = F.scaled_dot_product_attention(nothing, torch.zeros_like(values), values, attn_mask=mask)
    return torch.sigmoid(x.q) * mean.squeeze(-1).mT


@pytest.mark.parametrize("family", aft.families)
@pytest.mark.parametrize("name", aft.cases)
def test_values_and_gradients_are_those_of_sdpa(name: str, family: str, agree: Any) -> None:
    case = aft.case(name, torch.float64)
    x = aft.inputs(case, family, cotangents=True)
    leaves = Bunch({name: x[name].clone().requires_grad_() for name in aft.differentiable(case)})
    ours, theirs = aft.reference(leaves, case).out, sdpa(leaves, case)
    agree(ours, theirs)
    gradients = [torch.autograd.grad(out, list(leaves.values()), x["out.grad"]) for out in (ours, theirs)]
    for our, their in zip(*gradients, strict=True):
        agree(our, their)
