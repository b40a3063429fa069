"""A RetNet in plain torch: parallel retention over a sequence, recurrent retention for one token further."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.nn.decoder import Decoder

devices = ("cpu", "cuda")
gradients = True

# The forms of retention agree up to rounding only where the norm is free of scale, so eps must be nothing beside the
# mean square of any output. 1e-30 is that, and still keeps an output of zeros from becoming 0/0 in float32.
EPS = 1e-30


def prepare(case):
    return Decoder(case.v, case.d, case.l, case.f, lambda layer: MultiScaleRetention(case.d, case.h))


class MultiScaleRetention(nn.Module):
    """Retention with one decay a head, RMS norm over a head, silu gate; state: position, and keys times values."""

    def __init__(self, d: int, h: int):
        super().__init__()
        self.h = h
        self.q, self.k, self.v, self.gate, self.o = (nn.Linear(d, d, bias=False) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (w(x).unflatten(-1, (self.h, -1)).transpose(1, 2) for w in (self.q, self.k, self.v))
        n, width = q.shape[-2:]
        position = torch.arange(n, device=x.device)
        angles = angles_at(position, width)
        scores = turn(q, angles) @ turn(k * width**-0.5, angles).transpose(-2, -1)
        out = scores.mul_(decays(n, self.h, like=x)) @ v  # in place: the decays need no gradient
        return self._mix(out.transpose(1, 2), x)

    def step(self, x: Tensor, state: tuple[int, Tensor] | None) -> tuple[Tensor, tuple[int, Tensor]]:
        q, k, v = (w(x).unflatten(-1, (self.h, 1, -1)) for w in (self.q, self.k, self.v))
        position, past = state or (0, 0.0)
        angles = angles_at(torch.tensor([position], device=x.device), q.shape[-1])
        k = turn(k * k.shape[-1] ** -0.5, angles)
        past = gammas(self.h).to(x)[:, None, None] * past + k.transpose(-2, -1) * v
        return self._mix((turn(q, angles) @ past).squeeze(2), x), (position + 1, past)

    def _mix(self, out: Tensor, x: Tensor) -> Tensor:
        """out[... h e], x[... d] -> y[... d]: each head to unit mean square, then gated."""
        out = F.rms_norm(out, out.shape[-1:], eps=EPS)
        return self.o(F.silu(self.gate(x)) * out.flatten(-2))


def gammas(h: int) -> Tensor:
    """1 - 2^(-5-head), [h], float64."""
    return 1 - 2.0 ** (-5 - torch.arange(h, dtype=torch.float64))


def decays(n: int, h: int, like: Tensor) -> Tensor:
    """gamma^(query - key) [h n n], nought for keys that lie ahead. gamma^-key is never formed: it overflows."""
    distance = torch.arange(n - 1, -1, -1)
    falling = torch.cat([gammas(h)[:, None] ** distance, torch.zeros(h, n - 1)], 1).to(like)
    return falling.unfold(1, n, 1).flip(1)  # each row of the matrix is the one above, moved one to the right


def angles_at(position: Tensor, width: int) -> Tensor:
    """position[n] -> angles[n width/2], float64, with torchscale's frequencies: 1 to 1/10000, both ends included."""
    exponent = torch.linspace(0, 1, width // 2, dtype=torch.float64, device=position.device)
    return position[:, None] * 10000.0**-exponent


def turn(x: Tensor, angles: Tensor) -> Tensor:
    """x[b h n d], its neighbouring pairs turned by angles[n d/2]."""
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
