"""A transformer with learned absolute positions, on torch's fused scaled_dot_product_attention."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.nn.decoder import Decoder, LearnedPositions

devices = ("cpu", "cuda")
dtypes = ("float32",)
gradients = True


def prepare(case):
    positions = LearnedPositions(case.t, case.d)
    return Decoder(case.v, case.d, case.l, case.f, lambda layer: Attention(case.d, case.h), positions)


class Attention(nn.Module):
    """Causal attention that knows no position of its own; state: the keys and values so far."""

    def __init__(self, d: int, h: int):
        super().__init__()
        self.h = h
        self.q, self.k, self.v, self.o = (nn.Linear(d, d, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (w(x).unflatten(-1, (self.h, -1)).transpose(1, 2) for w in (self.q, self.k, self.v))
        return self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2))

    def step(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        q, k, v = (w(x).unflatten(-1, (self.h, 1, -1)) for w in (self.q, self.k, self.v))
        if state is not None:
            k, v = torch.cat([state[0], k], 2), torch.cat([state[1], v], 2)
        return self.o(F.scaled_dot_product_attention(q, k, v).flatten(1)), (k, v)
