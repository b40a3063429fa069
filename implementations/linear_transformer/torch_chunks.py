"""A transformer with linear attention in plain torch: in chunks, with the sums over what was seen handed on between them."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.nn.attention import CausalAttention
from harness.nn.decoder import Decoder

devices = ("cpu", "cuda")
dtypes = ("float32",)
gradients = True

# More tokens than this at once cost more in the square of their number than the state costs between them.
CHUNK = 128


def prepare(case):
    return Decoder(case.v, case.d, case.l, case.f, lambda layer: LinearAttention(case.d, case.h))


class LinearAttention(CausalAttention):
    """Attention whose weights are products of features elu(x) + 1; state: sums of features times values, and of features."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        q, k, v = F.elu(q) + 1, F.elu(k) + 1, with_ones(v)
        past: Any = 0.0
        out = []
        for q_c, k_c, v_c in zip(q.split(CHUNK, 2), k.split(CHUNK, 2), v.split(CHUNK, 2), strict=True):
            inside = (q_c @ k_c.mT).tril() @ v_c
            out.append(inside + q_c @ past if out else inside)
            past = past + k_c.mT @ v_c
        return normalised(torch.cat(out, 2))

    def attend_last(self, q: Tensor, k: Tensor, v: Tensor, state: Any) -> tuple[Tensor, Any]:
        state = (0.0 if state is None else state) + (F.elu(k) + 1).mT * with_ones(v)
        return normalised((F.elu(q) + 1) @ state), state


def with_ones(v: Tensor) -> Tensor:
    """Values with a last feature of one, whose weighted sum is the sum of the weights."""
    return F.pad(v, (0, 1), value=1.0)


def normalised(sums: Tensor) -> Tensor:
    return sums[..., :-1] / sums[..., -1:]
