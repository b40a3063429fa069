"""A transformer with linear biases (ALiBi), on torch's fused scaled_dot_product_attention."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.nn.decoder import Decoder

devices = ("cpu", "cuda")
dtypes = ("float32",)
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
        bias = bias_of_all(x.shape[1], self.h).to(x)[None]  # four axes: with three, torch takes a path four times slower
        return self.o(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).flatten(-2))

    def step(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        q, k, v = (w(x).unflatten(-1, (self.h, 1, -1)) for w in (self.q, self.k, self.v))
        if state is not None:
            k, v = torch.cat([state[0], k], 2), torch.cat([state[1], v], 2)
        bias = bias_of_last(k.shape[2], self.h).to(x)[None, :, None]
        return self.o(F.scaled_dot_product_attention(q, k, v, attn_mask=bias).flatten(1)), (k, v)


def bias_of_last(m: int, h: int) -> Tensor:
    """What the last of m queries adds to its scores: minus slope times distance [h m].

    float32, until it is whole: bfloat16 cannot tell neighbouring distances above 256 apart.
    """
    return -slopes(h)[:, None] * torch.arange(m - 1, -1, -1)


def bias_of_all(n: int, h: int) -> Tensor:
    """The same for each of n queries [h n n], minus infinity for keys that lie ahead."""
    falling = torch.cat([bias_of_last(n, h), torch.full((h, n - 1), -torch.inf)], 1)
    return falling.unfold(1, n, 1).flip(1)  # each row of the matrix is the one above, moved one to the right


def slopes(h: int) -> Tensor:
    """2^(-8/h) to 2^-8 in equal ratios; where h is no power of two, the list for the power below and every second
    of the list for the power above, as in the authors' code."""
    power = 1 << (h.bit_length() - 1)
    below = [2.0 ** (-8 * (i + 1) / power) for i in range(power)]
    above = [2.0 ** (-4 * (i + 1) / power) for i in range(0, 2 * power, 2)]
    return torch.tensor((below + above)[:h])
