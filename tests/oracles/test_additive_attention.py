"""The reference of additive attention against the formulas of the paper, looped over one by one in NumPy's long doubles."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.spec import Bunch, Case
from harness.specs.additive_attention import additive_attention

WEIGHTS = ("query_weight", "key_weight", "score_weight")

each_case = pytest.mark.parametrize("name", additive_attention.cases)
each_family = pytest.mark.parametrize("family", additive_attention.families)


@each_family
@each_case
def test_formulas_of_the_paper_in_long_doubles(name: str, family: str, agree: Any) -> None:
    case = additive_attention.case(name, torch.float64)
    x = additive_attention.inputs(case, family)
    s, h, query_weight, key_weight, score_weight = (x[t].numpy().astype(np.longdouble) for t in ("s", "h", *WEIGHTS))
    out = np.zeros((case.b, case.n, case.e), np.longdouble)
    weight = np.zeros((case.b, case.n, case.m), np.longdouble)
    for row, i in np.ndindex(case.b, case.n):
        length = int(x.last[row]) + 1
        e = np.array([score_weight @ np.tanh(query_weight @ s[row, i] + key_weight @ h[row, j]) for j in range(length)])
        alpha = np.exp(e - e.max()) / np.exp(e - e.max()).sum()
        weight[row, i, :length] = alpha
        out[row, i] = sum(alpha[j] * h[row, j] for j in range(length))
    ours = additive_attention.reference(x, case)
    agree(ours.out, torch.from_numpy(out.astype(np.float64)))
    agree(ours.weight, torch.from_numpy(weight.astype(np.float64)))


def with_linear_layers(x: Bunch, case: Case) -> tuple[Tensor, Tensor]:
    """Row by row, each cut to its length, with torch's own layers: for gradients."""
    outs, weights = [], []
    for row in range(case.b):
        h = x.h[row, : int(x.last[row]) + 1]
        hidden = torch.nn.functional.linear(x.s[row], x.query_weight).unsqueeze(1) + torch.nn.functional.linear(h, x.key_weight)
        alpha = torch.nn.functional.linear(hidden.tanh(), x.score_weight.unsqueeze(0)).squeeze(-1).softmax(-1)
        outs.append(alpha @ h)
        weights.append(torch.nn.functional.pad(alpha, (0, case.m - len(h))))
    return torch.stack(outs), torch.stack(weights)


@each_family
@each_case
def test_gradients_are_those_of_rows_cut_to_their_length(name: str, family: str, agree: Any) -> None:
    case = additive_attention.case(name, torch.float64)
    x = additive_attention.inputs(case, family, cotangents=True)
    leaves = Bunch({name: x[name].clone().requires_grad_() for name in additive_attention.differentiable(case)})
    given = Bunch({**x, **leaves})
    ours, theirs = tuple(additive_attention.reference(given, case).values()), with_linear_layers(given, case)
    cotangents = [x["out.grad"], x["weight.grad"]]
    gradients = [torch.autograd.grad(found, list(leaves.values()), cotangents) for found in (ours, theirs)]
    for our, their in zip((*ours, *gradients[0]), (*theirs, *gradients[1]), strict=True):
        agree(our, their)
