"""A language model of Hyena operators of order 2 in plain torch: implicit filters, long convolutions by Fourier transforms."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.nn.decoder import Decoder

devices = ("cpu", "cuda")
dtypes = ("float32",)
gradients = True

BANDS, WIDTH = 8, 16


def prepare(case):
    return Decoder(case.v, case.d, case.l, case.f, lambda layer: Hyena(case.d, case.t))


class Short(nn.Module):
    """Filters of three taps, for the channels of q, k and v."""

    def __init__(self, d: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3, d, 3))
        self.bias = nn.Parameter(torch.empty(3, d))

    def start(self) -> None:
        nn.init.normal_(self.weight, std=3**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        """x[b 3*d n] with the two tokens before it in front -> [b 3*d n]."""
        return F.conv1d(x, self.weight.flatten(0, 1)[:, None], self.bias.flatten(), groups=x.shape[1])


class Filter(nn.Module):
    """Taps as a learned function of time, which is 1 at the last place of the training, times a window that fades."""

    def __init__(self, d: int, t: int):
        super().__init__()
        self.t = t
        self.frequency = nn.Parameter(torch.full((WIDTH,), 10.0))
        self.layers = nn.ModuleList(nn.Linear(width, WIDTH) for width in (2 * BANDS + 1, WIDTH, WIDTH))
        self.last = nn.Linear(WIDTH, d, bias=False)

    def forward(self, start: int, stop: int) -> Tensor:
        """Taps `start` to `stop` [d n] of the filter of each channel."""
        weight = self.last.weight
        step = torch.arange(start, stop, dtype=torch.float64, device=weight.device)[:, None]
        bands = torch.linspace(1e-4, BANDS - 1, BANDS, dtype=torch.float64, device=weight.device)
        angle, time = 2 * math.pi / self.t * bands * step, step / (self.t - 1)
        hidden = torch.cat([time, angle.cos(), -angle.sin()], -1).to(weight)
        for layer in self.layers:
            hidden = torch.sin(self.frequency * layer(hidden))
        fading = torch.linspace(
            math.log(0.01) / 1.5, math.log(0.01) / 0.3, len(weight), dtype=torch.float64, device=weight.device
        )
        return (self.last(hidden) * torch.exp(fading * time).to(weight)).mT


class Hyena(nn.Module):
    """q * (filter conv (k * v)) after short filters; state: the last two projections, all products k * v, and the taps so far."""

    def __init__(self, d: int, t: int):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(d, d, bias=False) for _ in range(4))
        self.short, self.filter = Short(d), Filter(d, t)
        self.skip = nn.Parameter(torch.randn(d))

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[1]
        q, k, v = self.short(F.pad(self._project(x), (2, 0))).chunk(3, 1)
        product = k * v
        # Transforms of twice the length: nothing wraps around.
        spectrum = torch.fft.rfft(self.filter(0, n), 2 * n) * torch.fft.rfft(product, 2 * n)
        long = torch.fft.irfft(spectrum, 2 * n)[..., :n]
        return self.o((q * (long + self.skip[:, None] * product)).mT)

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        if state is None:
            empty = x.new_zeros(len(x), x.shape[1], 0)
            state = (x.new_zeros(len(x), 3 * x.shape[1], 2), empty, empty[0])
        recent, products, taps = state
        recent = torch.cat([recent, self._project(x[:, None])], 2)
        q, k, v = self.short(recent).chunk(3, 1)
        products = torch.cat([products, k * v], 2)
        taps = torch.cat([taps, self.filter(taps.shape[1], taps.shape[1] + 1)], 1)
        long = (products * taps.flip(1)).sum(2, keepdim=True)
        return self.o((q * (long + self.skip[:, None] * k * v))[..., 0]), (recent[..., 1:], products, taps)

    def _project(self, x: Tensor) -> Tensor:
        """x[b n d] -> q, k, v one after another [b 3*d n]."""
        return torch.cat([w(x) for w in (self.q, self.k, self.v)], -1).mT
