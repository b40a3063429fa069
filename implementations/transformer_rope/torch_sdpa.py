"""A transformer with rotary positions, on torch's fused scaled_dot_product_attention."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.nn.decoder import Decoder

devices = ("cpu", "cuda")
dtypes = ("float32",)
gradients = True


def prepare(case):
    return Decoder(case.v, case.d, case.l, case.f, lambda layer: RotaryAttention(case.d, case.h))


class RotaryAttention(nn.Module):
    """Causal attention whose queries and keys are turned by their position; state: the keys and values so far."""

    def __init__(self, d: int, h: int):
        super().__init__()
        self.h = h
        self.q, self.k, self.v, self.o = (nn.Linear(d, d, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (w(x).unflatten(-1, (self.h, -1)).transpose(1, 2) for w in (self.q, self.k, self.v))
        angles = angles_at(torch.arange(x.shape[1], device=x.device), q.shape[-1])
        out = F.scaled_dot_product_attention(turn(q, angles), turn(k, angles), v, is_causal=True)
        return self.o(out.transpose(1, 2).flatten(-2))

    def step(self, x: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        q, k, v = (w(x).unflatten(-1, (self.h, 1, -1)) for w in (self.q, self.k, self.v))
        position = 0 if state is None else state[0].shape[2]
        angles = angles_at(torch.tensor([position], device=x.device), q.shape[-1])
        k = turn(k, angles)
        if state is not None:
            k, v = torch.cat([state[0], k], 2), torch.cat([state[1], v], 2)
        return self.o(F.scaled_dot_product_attention(turn(q, angles), k, v).flatten(1)), (k, v)


def angles_at(position: Tensor, d: int) -> Tensor:
    """position[n] -> angles[n d/2], float64: at position 10^6 a float32 angle is off by 0.06 rad."""
    return position[:, None] * 10000.0 ** -(torch.arange(0, d, 2, dtype=torch.float64, device=position.device) / d)


def turn(x: Tensor, angles: Tensor) -> Tensor:
    """x[b h n d], its neighbouring pairs turned by angles[n d/2]."""
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
