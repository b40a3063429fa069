"""The reference of MEGABYTE against a second one without patches: all bytes in one row, with block masks, of torch's own parts.

No published code is the paper's model: lucidrains' has other norms, tables and starts."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from harness.specs.megabyte import megabyte


def turned(x: Tensor, position: Tensor) -> Tensor:
    """x[b h n e] as complex numbers, each turned by its position."""
    speed = 1 / 10000.0 ** (torch.arange(0, x.shape[-1], 2, dtype=torch.float64) / x.shape[-1])
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.exp(1j * position[:, None] * speed)).flatten(-2)


def layer(x: Tensor, w: Mapping[str, Tensor], i: int, h: int, seen: Tensor) -> Tensor:
    def normed(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], w[f"blocks.{i}.{name}.weight"], w[f"blocks.{i}.{name}.bias"])

    position = torch.arange(x.shape[1])
    y = normed(x, "norm1")
    q, k, v = (F.linear(y, w[f"blocks.{i}.mixer.{of}.weight"]).unflatten(-1, (h, -1)).transpose(1, 2) for of in "qkv")
    y = F.scaled_dot_product_attention(turned(q, position), turned(k, position), v, attn_mask=seen)
    x = x + F.linear(y.transpose(1, 2).flatten(2), w[f"blocks.{i}.mixer.o.weight"])
    hidden = F.gelu(F.linear(normed(x, "norm2"), w[f"blocks.{i}.up.weight"], w[f"blocks.{i}.up.bias"]))
    return x + F.linear(hidden, w[f"blocks.{i}.down.weight"], w[f"blocks.{i}.down.bias"])


def in_one_row(w: Mapping[str, Tensor], case: Any) -> Tensor:
    """Row j foretells byte j, for j = 0 ... n; where positions count from does not matter to rotary attention."""
    ids, (b, n, d, p) = w["ids"], (case.b, case.n, case.d, case.p)
    row = torch.arange(n + 1)
    patch = row // p
    late = torch.cat([w["patches.pad"].view(1, p, -1).expand(b, -1, -1), F.embedding(ids, w["patches.embedding.weight"])], 1)
    x = late[:, : (n // p + 1) * p].reshape(b, -1, d)
    for i in range(case.l - case.local):
        x = layer(x, w, i, case.h, torch.ones(x.shape[1], x.shape[1]).tril().bool())
    x = F.layer_norm(x, (d,), w["patches.norm.weight"], w["patches.norm.bias"])
    heard = F.linear(x.reshape(b, -1, d // p)[:, : n + 1], w["patches.to_bytes.weight"])
    before = F.embedding(ids, w["embedding.weight"])
    x = torch.cat([before[:, :1], before], 1)
    x = torch.where((row % p == 0)[:, None], w["bytes.pad"], x) + heard
    own = (patch[:, None] == patch) & (row <= row[:, None])
    for i in range(case.l - case.local, case.l):
        x = layer(x, w, i, case.h, own)
    return F.layer_norm(x, (d,), w["norm.weight"], w["norm.bias"])[:, 1:] @ w["embedding.weight"].T


@pytest.mark.parametrize("family", megabyte.families)
@pytest.mark.parametrize("name", megabyte.cases)
def test_all_bytes_in_one_row(name: str, family: str, agree: Any) -> None:
    case = megabyte.case(name, torch.float64)
    drawn = megabyte.inputs(case, family, cotangents=True)
    x = {name: t.double().requires_grad_() if t.is_floating_point() else t for name, t in drawn.items()}
    leaves = [x[name] for name in megabyte.differentiable(case)]
    answers = [megabyte.reference(x, case).logits, in_one_row(x, case)]
    agree(*answers)
    ours, theirs = (torch.autograd.grad(logits, leaves, drawn["logits.grad"], materialize_grads=True) for logits in answers)
    for our, their in zip(ours, theirs, strict=True):
        agree(our, their)
