"""A transformer with linear biases (ALiBi), on torch's fused scaled_dot_product_attention."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.nn.decoder import Decoder

devices = ("cpu", "cuda")
gradients = True


def prepare(case):
    return Decoder(case.v, case.d, case.l, case.f, lambda layer: BiasedAttention(case.d, case.h))


class BiasedAttention(nn.Module):
    """Causal attention that likes near keys better, each head to its own degree; state: the keys and values so far."""

    def __init__(self, d: int, h: int):
        super().__init__()
        self.h = h
        self.q, self.k, self.v, self.o = (nn.Linear(d, d, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (w(x).unflatten(-1, (self.h, -1)).transpose(1, 2) for w in (self.q, self.k, self.v))
        n = x.shape[1]
        bias = bias_at(torch.arange(n, device=x.device), n, self.h).to(x.dtype)
        return self.o(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(-2))

    def step(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        q, k, v = (w(x).unflatten(-1, (self.h, 1, -1)) for w in (self.q, self.k, self.v))
        if state is not None:
            k, v = torch.cat([state[0], k], 2), torch.cat([state[1], v], 2)
        m = k.shape[2]
        bias = bias_at(torch.tensor([m - 1], device=x.device), m, self.h).to(x.dtype)
        return self.o(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).flatten(1)), (k, v)


def bias_at(position: Tensor, m: int, h: int) -> Tensor:
    """position[n] of the queries -> bias[h n m]: minus slope times distance, minus infinity for what lies ahead.

    float32 at least: bfloat16 cannot tell neighbouring distances above 256 apart.
    """
    distance = position[:, None] - torch.arange(m, device=position.device)
    bias = -slopes(h).to(position.device)[:, None, None] * distance
    return bias.masked_fill(distance < 0, float("-inf"))


def slopes(h: int) -> Tensor:
    """2^(-8/h) to 2^-8 in equal ratios; where h is no power of two, the list for the power below and every second
    of the list for the power above, as in the authors' code."""
    power = 1 << (h.bit_length() - 1)
    below = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
    above = [2.0 ** (-4 * (i + 1) / power) for i in range(0, 2 * power, 2)]
    return torch.tensor((below + above)[:h])
