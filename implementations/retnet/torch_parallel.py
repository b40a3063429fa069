"""A RetNet in plain torch: parallel retention (in chunks where a sequence is long), recurrent for one token further."""

from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.nn.decoder import Decoder

devices = ("cpu", "cuda")
dtypes = ("float32",)
gradients = True

# The forms of retention agree up to rounding only where the norm is free of scale, so eps must be nothing beside the
# mean square of any output. 1e-30 is that, and still keeps an output of zeros from becoming 0/0 in float32.
EPS = 1e-30
# More tokens than this at once cost more in the square of their number than the state costs between them.
CHUNK = 256


def prepare(case):
    return Decoder(case.v, case.d, case.l, case.f, lambda layer: MultiScaleRetention(case.d, case.h))


class MultiScaleRetention(nn.Module):
    """Retention with one decay a head, RMS norm over a head, silu gate; state: position, and keys times values."""

    def __init__(self, d: int, h: int):
        super().__init__()
        self.h = h
        self.q, self.k, self.v, self.gate, self.o = (nn.Linear(d, d, bias=False) for _ in range(5))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (wide(w(x)).unflatten(-1, (self.h, -1)).transpose(1, 2) for w in (self.q, self.k, self.v))
        angles = angles_at(torch.arange(x.shape[1], device=x.device), q.shape[-1])
        q, k = turn(q, angles), turn(k * k.shape[-1] ** -0.5, angles)
        past, out = None, []
        for q_c, k_c, v_c in zip(q.split(CHUNK, 2), k.split(CHUNK, 2), v.split(CHUNK, 2), strict=True):
            part, past = self._retain(q_c, k_c, v_c, past)
            out.append(part)
        return self._mix(torch.cat(out, 2).transpose(1, 2), x)

    def _retain(self, q: Tensor, k: Tensor, v: Tensor, past: Tensor | None) -> tuple[Tensor, Tensor]:
        """q, k, v[b h n d] and the state before them -> out[b h n d], state[b h d d]: the parallel form."""
        decay = decays(q.shape[2], self.h, q.dtype, q.device)
        gamma = gammas(self.h).to(q)[:, None, None]
        out = (q @ k.mT).mul_(decay) @ v
        state = (k * decay[:, -1, :, None]).mT @ v
        if past is not None:
            out = out + (q * decay[:, :, :1] * gamma) @ past
            state = state + gamma ** q.shape[2] * past
        return out, state

    def step(self, x: Tensor, state: tuple[int, Tensor] | None) -> tuple[Tensor, tuple[int, Tensor]]:
        q, k, v = (wide(w(x)).unflatten(-1, (self.h, 1, -1)) for w in (self.q, self.k, self.v))
        position, past = state or (0, 0.0)
        angles = angles_at(torch.tensor([position], device=x.device), q.shape[-1])
        k = turn(k * k.shape[-1] ** -0.5, angles)
        past = gammas(self.h).to(q)[:, None, None] * past + k.transpose(-2, -1) * v
        return self._mix((turn(q, angles) @ past).squeeze(2), x), (position + 1, past)

    def _mix(self, out: Tensor, x: Tensor) -> Tensor:
        """out[... h e], x[... d] -> y[... d]: each head to unit mean square, then gated."""
        out = F.rms_norm(out, out.shape[-1:], eps=EPS).to(x.dtype)
        return self.o(F.silu(self.gate(x)) * out.flatten(-2))


def wide(x: Tensor) -> Tensor:
    """In float32 at least: outputs are free to be small, and the norm makes them large again."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def gammas(h: int) -> Tensor:
    """1 - 2^(-5-head), [h], float64."""
    return 1 - 2.0 ** (-5 - torch.arange(h, dtype=torch.float64))


@lru_cache(maxsize=1)
@torch.inference_mode(False)  # what is kept from an evaluation must serve in training
def decays(n: int, h: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """gamma^distance [h n n], nought for what lies ahead; all layers share it. gamma^-m is never formed: it overflows."""
    position = torch.arange(n, device=device)
    distance = position[:, None] - position
    decay = gammas(h).to(device)[:, None, None] ** distance.clamp(min=0)
    return decay.masked_fill(distance < 0, 0.0).to(dtype)


def angles_at(position: Tensor, width: int) -> Tensor:
    """position[n] -> angles[n width/2], float64, with torchscale's frequencies: 1 to 1/10000, both ends included."""
    exponent = torch.linspace(0, 1, width // 2, dtype=torch.float64, device=position.device)
    return position[:, None] * 10000.0**-exponent


def turn(x: Tensor, angles: Tensor) -> Tensor:
    """x[b h n d], its neighbouring pairs turned by angles[n d/2]."""
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
