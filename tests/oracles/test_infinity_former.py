"""The reference of the infinity-former against a second one that takes nothing in closed form, of numpy's and torch's own parts.

Ridge regression is least squares with rows more, the expectation is an integral by strips, quantiles are numpy's
interpolation, short attention has a block mask over the whole input. The published code draws its points, in float32."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn import functional as F

from harness.specs.infinity_former import infinity_former


def functions(place: Tensor, c: int) -> Tensor:
    """The c basis functions at these places [i c]."""
    centre, width = torch.linspace(0, 1, c // 2, dtype=torch.float64), torch.ones(c // 2, dtype=torch.float64) / c
    return torch.cat([Normal(centre, at * width).log_prob(place[..., None]).exp() for at in (2.5, 5)], -1)


def least_squares(place: Tensor, states: Tensor, c: int) -> Tensor:
    rows = torch.cat([functions(place, c), 0.5**0.5 * torch.eye(c, dtype=torch.float64)])
    target = F.pad(states, (0, 0, 0, c))
    return torch.linalg.lstsq(rows.expand(len(target), -1, -1), target).solution


def integral(mean: Tensor, variance: Tensor, values: Tensor) -> Tensor:
    """Of the signal times a Gaussian, over all places where there is any signal."""
    c = values.shape[2]
    far = 9 * 5 / c
    strip = min(0.002, 1 / (16 * c))
    place = torch.arange(-far, 1 + far, strip, dtype=torch.float64)
    signal = functions(place, c) @ values
    density = Normal(mean[..., None], variance[..., None].sqrt()).log_prob(place).exp()
    return strip * density @ signal


def sampled(mean: Tensor, variance: Tensor, size: int) -> Tensor:
    edge = torch.linspace(0, 1, 33, dtype=torch.float64)
    below = Normal(mean.flatten(1)[:, :, None], variance.flatten(1)[:, :, None].sqrt()).cdf(edge).sum(1)
    share = below.diff() / below.diff().sum(-1, keepdim=True)
    below = F.pad((0.99 * share + 0.01 / 32).cumsum(-1), (1, 0))
    level = (np.arange(size) + 0.5) / size
    return torch.stack([torch.from_numpy(np.interp(level, row.detach().numpy(), edge.numpy())) for row in below])


def turned(x: Tensor, position: Tensor) -> Tensor:
    """x[b h n e] as complex numbers, each turned by its position."""
    speed = 1 / 10000.0 ** (torch.arange(0, x.shape[-1], 2, dtype=torch.float64) / x.shape[-1])
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.exp(1j * position[:, None] * speed)).flatten(-2)


def attention(y: Tensor, w: Mapping[str, Tensor], mixer: str, case: Any) -> Tensor:
    n, s, row = case.n, case.t // 4, torch.arange(case.n)

    def heads(x: Tensor, of: str) -> Tensor:
        return F.linear(x, w[f"{mixer}{of}.weight"]).unflatten(-1, (case.h, -1)).transpose(1, 2)

    q, k, v = (heads(y, of) for of in "qkv")
    seen = (row[:, None] // s == row // s) & (row <= row[:, None])
    out = F.scaled_dot_product_attention(turned(q, row), turned(k, row), v, attn_mask=seen)
    memory = mean = variance = None
    for start in range(s, n, s):
        states = y[:, start - s : start]
        new = torch.arange(1, s + 1, dtype=torch.float64) / s
        if memory is None:
            memory = least_squares(new, states, case.c)
        else:
            place = sampled(mean, variance, s) if case.sticky else new
            old = functions(place, case.c) @ memory.detach()
            both = torch.cat([case.tau * new, case.tau + (1 - case.tau) * new])
            memory = least_squares(both, torch.cat([old, states], 1), case.c)
        now = slice(start, start + s)
        scores = q[:, :, now] @ heads(memory, "k").mT / q.shape[-1] ** 0.5
        mean = torch.sigmoid(F.linear(scores, w[f"{mixer}mean.weight"]))[..., 0]
        variance = F.softplus(F.linear(scores, w[f"{mixer}variance.weight"]))[..., 0].clamp(min=1e-4)
        long = integral(mean, variance, heads(memory, "v"))
        out = torch.cat([out[:, :, :start], out[:, :, now] + long, out[:, :, start + s :]], 2)
    return F.linear(out.transpose(1, 2).flatten(2), w[f"{mixer}o.weight"])


def model(w: Mapping[str, Tensor], case: Any) -> Tensor:
    def normed(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"])

    x = F.embedding(w["ids"], w["embedding.weight"])
    for block in (f"blocks.{i}." for i in range(case.l)):
        x = x + attention(normed(x, block + "norm1"), w, block + "mixer.", case)
        hidden = F.gelu(F.linear(normed(x, block + "norm2"), w[block + "up.weight"], w[block + "up.bias"]))
        x = x + F.linear(hidden, w[block + "down.weight"], w[block + "down.bias"])
    return normed(x, "norm") @ w["head.weight"].T


@pytest.mark.parametrize("family", infinity_former.families)
@pytest.mark.parametrize("name", infinity_former.cases)
def test_nothing_in_closed_form(name: str, family: str, agree: Any) -> None:
    case = infinity_former.case(name, torch.float64)
    drawn = infinity_former.inputs(case, family, cotangents=True)
    x = {name: t.double().requires_grad_() if t.is_floating_point() else t for name, t in drawn.items()}
    leaves = [x[name] for name in infinity_former.differentiable(case)]
    answers = [infinity_former.reference(x, case).logits, model(x, case)]
    agree(*answers)
    ours, theirs = (torch.autograd.grad(logits, leaves, drawn["logits.grad"], materialize_grads=True) for logits in answers)
    for our, their in zip(ours, theirs, strict=True):
        agree(our, their)
