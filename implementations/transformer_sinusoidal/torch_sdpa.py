"""A transformer with sinusoidal positions, on torch's fused scaled_dot_product_attention."""

import torch
from torch import Tensor

from harness.nn.attention import CausalAttention
from harness.nn.decoder import Decoder

devices = ("cpu", "cuda")
dtypes = ("float32",)
gradients = True


def prepare(case):
    return WithSinusoids(case.v, case.d, case.l, case.f, lambda layer: CausalAttention(case.d, case.h))


class WithSinusoids(Decoder):
    """The decoder with sinusoids added to its embedding, which is multiplied by sqrt(d) before."""

    def embed(self, ids: Tensor, start: int) -> Tensor:
        x = super().embed(ids, start)
        d = x.shape[-1]
        return d**0.5 * x + sinusoids(torch.arange(start, start + ids.shape[1], device=ids.device), d).to(x)


def sinusoids(position: Tensor, d: int) -> Tensor:
    """position[n] -> rows[n d], float64: sine and cosine of p / 10000^(2i/d), side by side."""
    angle = position[:, None] * 10000.0 ** -(torch.arange(0, d, 2, dtype=torch.float64, device=position.device) / d)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)
