"""The infinity-former in plain torch: fits to fixed places are matrices made once; short attention has all segments at once."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.nn.attention import CausalAttention, appended
from harness.nn.decoder import Decoder
from harness.nn.rotary import angles_at, turn

devices = ("cpu", "cuda")
dtypes = ("float32",)
gradients = True


def prepare(case):
    return Decoder(
        case.v, case.d, case.l, case.f, lambda layer: MemoryAttention(case.d, case.h, case.c, case.t // 4, case.tau, case.sticky)
    )


class MemoryAttention(CausalAttention):
    """Attention within segments of `s` tokens, and to a memory of those before: a signal of `c` Gaussians over [0, 1].

    State of a step: keys and values of the segment, its tokens, where they look, and the memory with its keys and values."""

    def __init__(self, d: int, h: int, c: int, s: int, tau: float, sticky: bool):
        super().__init__(d, h)
        self.mean, self.variance = (nn.Linear(c, 1, bias=False) for _ in range(2))
        self.s, self.sticky = s, sticky
        self.signal = Signal(c, s, tau)

    def start(self) -> None:
        """Looks are wide at first, and everywhere."""
        nn.init.normal_(self.mean.weight, std=0.02)
        nn.init.normal_(self.variance.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (w(x).unflatten(-1, (self.h, -1)).transpose(1, 2) for w in (self.q, self.k, self.v))
        short, queries, tokens = self._within_segments(q, k, v).split(self.s, 2), q.split(self.s, 2), x.split(self.s, 1)
        heard, before = [short[0]], None
        for i in range(1, len(tokens)):
            memory = self._extended(*before) if before else self.signal.begun(tokens[0])
            long, look = self._look(queries[i], *self._read(memory))
            heard.append(short[i] + long)
            before = (memory, tokens[i], *look)
        return self.o(torch.cat(heard, 2).transpose(1, 2).flatten(2))

    def _within_segments(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[b h n e], each token seeing those of its segment before it."""
        n = q.shape[2]
        angles = angles_at(torch.arange(n, device=q.device), q.shape[-1])  # only distances count
        rows = [F.pad(part, (0, 0, 0, -n % self.s)).unflatten(2, (-1, self.s)) for part in (turn(q, angles), turn(k, angles), v)]
        return F.scaled_dot_product_attention(*rows, is_causal=True).flatten(2, 3)[:, :, :n]

    def _read(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [b h c e] of the memory [b c d]."""
        keys, values = (w(memory).unflatten(-1, (self.h, -1)).transpose(1, 2) for w in (self.k, self.v))
        return keys, values

    def _look(self, q: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """What queries [b h n e] hear of the memory [b h n e]; mean and variance [b h n] of where they look."""
        scores = q @ keys.mT * q.shape[-1] ** -0.5
        mean = torch.sigmoid(self.mean(scores))
        variance = F.softplus(self.variance(scores)).clamp(min=1e-4)
        return self.signal.density(mean, variance) @ values, (mean[..., 0], variance[..., 0])

    def _extended(self, memory: Tensor, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        """The memory [b c d] with those of a segment that was its s tokens [b s d], and looked at it so."""
        place = quantiles(mean.flatten(1), variance.flatten(1), self.s) if self.sticky else None
        return self.signal.extended(memory.detach(), x, place)

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        q, k, v = (w(x).unflatten(-1, (self.h, 1, -1)) for w in (self.q, self.k, self.v))
        kept, tokens, looks, memory = state or (None, [], [], None)
        if len(tokens) == self.s:
            x_before = torch.stack(tokens, 1)
            if memory is None:
                signal = self.signal.begun(x_before)
            else:
                signal = self._extended(memory[0], x_before, *(torch.cat(of, 2) for of in zip(*looks, strict=True)))
            kept, tokens, looks, memory = None, [], [], (signal, *self._read(signal))
        angles = angles_at(torch.tensor([len(tokens)], device=x.device), q.shape[-1])
        kept = appended(kept, turn(k, angles), v)
        out = F.scaled_dot_product_attention(turn(q, angles), *kept)
        if memory is not None:
            long, look = self._look(q, *memory[1:])
            out, looks = out + long, [*looks, look]
        return self.o(out.flatten(1)), (kept, [*tokens, x], looks, memory)


class Signal(nn.Module):
    """Sums of Gaussians over [0, 1], half of them 2.5 / c wide, half 5 / c; and the ridge regressions that fit them to states."""

    first: Tensor
    old: Tensor
    new: Tensor
    even: Tensor
    centre: Tensor
    width: Tensor

    def __init__(self, c: int, s: int, tau: float):
        super().__init__()
        centre = torch.linspace(0, 1, c // 2, dtype=torch.float64).repeat(2)
        width = torch.tensor([2.5 / c, 5 / c], dtype=torch.float64).repeat_interleave(c // 2)
        place = torch.arange(1, s + 1, dtype=torch.float64) / s

        def functions(place: Tensor) -> Tensor:
            return densities(place[:, None], centre, width**2)

        def fit(place: Tensor) -> Tensor:
            """States at these places -> coefficients [c i]."""
            there = functions(place)
            return torch.linalg.solve(there.mT @ there + 0.5 * torch.eye(c, dtype=torch.float64), there.mT)

        old, new = fit(torch.cat([tau * place, tau + (1 - tau) * place])).split(s, 1)
        made = {"first": fit(place), "old": old, "new": new, "even": functions(place), "centre": centre, "width": width}
        for name, tensor in made.items():
            self.register_buffer(name, tensor.float(), persistent=False)

    def begun(self, x: Tensor) -> Tensor:
        """The memory [b c d] of the first segment's tokens [b s d]."""
        return self.first @ x

    def extended(self, memory: Tensor, x: Tensor, place: Tensor | None) -> Tensor:
        """The memory [b c d] sampled at place[b s], evenly where there is none, and joined by the states x[b s d]."""
        there = self.even if place is None else self.density(place[..., None])
        return self.old @ (there @ memory) + self.new @ x

    def density(self, mean: Tensor, variance: Tensor | float = 0.0) -> Tensor:
        """mean, variance [... 1] -> the expected value of each Gaussian under another with these [... c]."""
        return densities(mean, self.centre, self.width**2 + variance)


def densities(place: Tensor, centre: Tensor, variance: Tensor) -> Tensor:
    return torch.exp(-((place - centre) ** 2) / (2 * variance)) * (2 * math.pi * variance) ** -0.5


def quantiles(mean: Tensor, variance: Tensor, size: int) -> Tensor:
    """Places [b size] at the quantiles (i - 1/2) / size of where Gaussians [b i] have their mass: in 32 bins, 1 % of it even."""
    bins = 32
    edge = torch.arange(bins + 1, device=mean.device) / bins
    with torch.no_grad():
        below = torch.erf((edge - mean[..., None]) * (2 * variance[..., None]) ** -0.5).sum(1)
        below = (below - below[:, :1]) / (below[:, -1:] - below[:, :1])
        below = 0.99 * below + 0.01 * edge
        level = (torch.arange(size, device=mean.device) + 0.5).expand(len(mean), -1) / size
        after = torch.searchsorted(below, level.contiguous()).clamp(1, bins)
        low, high = below.gather(1, after - 1), below.gather(1, after)
        return (after - 1 + (level - low) / (high - low)) / bins
