"""The reference of WKV against the sum of the paper in long doubles, against softmax attention, and the official recurrence.

No library that installs lightly holds RWKV-4 apart from its kernels, so the sum of the paper is summed as it is printed.
"""

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.spec import Bunch, Case
from harness.specs.wkv import wkv

INPUTS = ("k", "v", "decay", "bonus", "past_mean", "past_weight")

each_case = pytest.mark.parametrize("name", wkv.cases)
each_family = pytest.mark.parametrize("family", wkv.families)


def drawn(name: str, family: str) -> tuple[Case, Bunch]:
    case = wkv.case(name, torch.float64)
    return case, wkv.inputs(case, family, cotangents=True)


@each_family
@each_case
def test_sum_of_the_paper_in_long_doubles(name: str, family: str, agree: Any) -> None:
    """Eq. 14, term by term."""
    case, x = drawn(name, family)
    k, v, decay, bonus, past_mean, past_weight = (x[t].numpy().astype(np.longdouble) for t in INPUTS)
    w = -np.exp(decay)
    out = np.zeros((case.b, case.n + 1, case.d), np.longdouble)
    weight = np.zeros((case.b, case.d), np.longdouble)
    for row, t, c in np.ndindex(out.shape):
        terms = [(past_weight[row, c] + t * w[c], past_mean[row, c])]
        terms += [((t - 1 - i) * w[c] + k[row, i, c], v[row, i, c]) for i in range(t)]
        if t < case.n:
            terms.append((bonus[c] + k[row, t, c], v[row, t, c]))
        top = max(exponent for exponent, _ in terms)
        total = sum(np.exp(exponent - top) for exponent, _ in terms)
        out[row, t, c] = sum(np.exp(exponent - top) * value for exponent, value in terms) / total
        weight[row, c] = top + np.log(total)
    ours = wkv.reference(x, case)
    for our, oracle in ((ours.out, out[:, :-1]), (ours.state_mean, out[:, -1]), (ours.state_weight, weight)):
        agree(our, torch.from_numpy(oracle.astype(np.float64)))


@each_family
@each_case
def test_softmax_attention_with_a_bias(name: str, family: str, agree: Any) -> None:
    """Values and gradients: channels are heads, queries are zero, and the bias is the exponent."""
    case, x = drawn(name, family)
    age = torch.tensor([[float(t - 1 - i) for i in range(case.n)] for t in range(case.n)], dtype=torch.float64)

    def theirs(y: Bunch) -> Tensor:
        w = -torch.exp(y.decay)[:, None, None]
        bias = torch.where(age < 0, y.bonus[:, None, None], age * w) + y.k.mT.unsqueeze(2)
        bias = bias.masked_fill(age < -1, -torch.inf)
        past = y.past_weight[..., None] + torch.arange(case.n) * w.squeeze(-1)
        bias = torch.cat([past.unsqueeze(-1), bias], -1)
        values = torch.cat([y.past_mean.unsqueeze(1), y.v], 1).mT.unsqueeze(-1)
        nothing = torch.zeros(case.b, case.d, case.n, 1, dtype=torch.float64)
        return F.scaled_dot_product_attention(nothing, torch.zeros_like(values), values, attn_mask=bias).squeeze(-1).mT

    leaves = Bunch({name: x[name].clone().requires_grad_() for name in INPUTS})
    ours, oracle = wkv.reference(leaves, case).out, theirs(leaves)
    agree(ours, oracle)
    gradients = [torch.autograd.grad(out, list(leaves.values()), x["out.grad"], materialize_grads=True) for out in (ours, oracle)]
    for our, their in zip(*gradients, strict=True):
        agree(our, their)


@pytest.mark.parametrize("name", ["plain", "long", "wide"])
def test_the_recurrence_of_the_official_code(name: str, agree: Any) -> None:
    """Numerator, denominator and exponent as in RWKV_in_150_lines.py, from no past (`pp` = -1e38) and from one."""
    case, x = drawn(name, "normal")
    w, u = -torch.exp(x.decay), x.bonus
    for past in (x.past_weight, torch.full_like(x.past_weight, -1e38)):
        aa, bb, pp, out = x.past_mean, torch.ones_like(past), past, []
        for kk, vv in zip(x.k.unbind(1), x.v.unbind(1), strict=True):
            ww = u + kk
            qq = torch.maximum(pp, ww)
            e1, e2 = torch.exp(pp - qq), torch.exp(ww - qq)
            out.append((e1 * aa + e2 * vv) / (e1 * bb + e2))
            ww = pp + w
            qq = torch.maximum(ww, kk)
            e1, e2 = torch.exp(ww - qq), torch.exp(kk - qq)
            aa, bb, pp = e1 * aa + e2 * vv, e1 * bb + e2, qq
        ours = wkv.reference({**x, "past_weight": past}, case)
        for our, oracle in ((ours.out, torch.stack(out, 1)), (ours.state_mean, aa / bb), (ours.state_weight, pp + bb.log())):
            agree(our, oracle)
