"""RWKV-4 in plain torch: time mixing in chunks, as products of matrices, with the state handed on between them."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.nn.decoder import Decoder

devices = ("cpu", "cuda")
dtypes = ("float32",)
gradients = True

# Tokens that are mixed at once, by a matrix for each channel. Weights are relative to the largest key of a chunk and the past:
# a token is lost if it sees nothing within e^80 of a key that lies ahead of it in its chunk.
CHUNK = 32


def prepare(case):
    return Rwkv(case.v, case.d, case.l, case.f, lambda layer: TimeMixing(case.d, layer / case.l), block=RwkvBlock)


class Rwkv(Decoder):
    """The decoder with a norm after its embedding."""

    def __init__(self, v: int, d: int, *parts: Any, **options: Any):
        super().__init__(v, d, *parts, **options)
        self.norm0 = nn.LayerNorm(d, eps=1e-5)

    def embed(self, ids: Tensor, start: int) -> Tensor:
        return self.norm0(super().embed(ids, start))


class RwkvBlock(nn.Module):
    """x + mixer(norm1(x)), then x + feed(norm2(x)); state: those of both parts."""

    def __init__(self, d: int, f: int, mixer: nn.Module):
        super().__init__()
        self.norm1 = nn.LayerNorm(d, eps=1e-5)
        self.mixer = mixer
        self.norm2 = nn.LayerNorm(d, eps=1e-5)
        self.feed = ChannelMixing(d, f)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.mixer(self.norm1(x))
        return x + self.feed(self.norm2(x))

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        of_mixer, of_feed = state or (None, None)
        y, of_mixer = self.mixer.step(self.norm1(x), of_mixer)
        x = x + y
        y, of_feed = self.feed.step(self.norm2(x), of_feed)
        return x + y, (of_mixer, of_feed)


def shares(d: int) -> Tensor:
    """How much of itself each channel of a token has at first: from none to nearly all."""
    return torch.arange(d) / d


class TimeMixing(nn.Module):
    """Means of values that fade with time; state: the token before, the mean so far and the logarithm of its weight."""

    def __init__(self, d: int, depth: float):
        super().__init__()
        self.k, self.v, self.r, self.o = (nn.Linear(d, d, bias=False) for _ in range(4))
        own = shares(d) ** (1 - depth)
        self.mix_k, self.mix_v, self.mix_r = nn.Parameter(own), nn.Parameter(own + 0.3 * depth), nn.Parameter(own / 2)
        self.decay = nn.Parameter(-5 + 8 * (torch.arange(d) / max(1, d - 1)) ** (0.7 + 1.3 * depth))
        self.bonus = nn.Parameter(math.log(0.3) + 0.5 * ((torch.arange(d) + 1) % 3 - 1))

    def forward(self, x: Tensor) -> Tensor:
        r, k, v = self._project(x, F.pad(x, (0, 0, 1, -1)))
        inside = self._weights(min(CHUNK, x.shape[1]))
        past, out = None, []
        for k_c, v_c in zip(k.split(CHUNK, 1), v.split(CHUNK, 1), strict=True):
            part, past = self._mean(k_c, v_c, inside, past)
            out.append(part)
        return self.o(torch.sigmoid(r) * torch.cat(out, 1))

    def _project(self, x: Tensor, old: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return tuple(w(torch.lerp(old, x, mix)) for w, mix in ((self.r, self.mix_r), (self.k, self.mix_k), (self.v, self.mix_v)))

    def _weights(self, n: int) -> Tensor:
        """The logarithm of what token j weighs at token i beside its key [d n n]."""
        step = torch.arange(n, device=self.decay.device)
        age = step[:, None] - 1 - step
        weight = torch.where(age < 0, self.bonus[:, None, None], -self.decay.exp()[:, None, None] * age.clamp(min=0))
        return weight.masked_fill(age < -1, -torch.inf).exp()

    def _mean(self, k: Tensor, v: Tensor, inside: Tensor, past: tuple[Tensor, Tensor] | None) -> tuple[Tensor, Any]:
        """k, v[b n d] and the past -> out[b n d], the past of what comes after."""
        n, fading = k.shape[1], -self.decay.exp()
        top = k.amax(1) if past is None else torch.maximum(k.amax(1), past[1])
        top = top.detach()
        heard = torch.exp(k - top[:, None])
        sums = torch.stack([heard * v, heard])  # [2 b n d]
        out = torch.einsum("dij,sbjd->sbid", inside[:, :n, :n], sums)
        ages = torch.arange(n - 1, -1, -1, device=k.device)
        last = torch.einsum("jd,sbjd->sbd", torch.exp(ages[:, None] * fading), sums)
        if past is not None:
            old = torch.exp(past[1] - top) * torch.stack([past[0], torch.ones_like(past[0])])  # [2 b d]
            out = out + old[:, :, None] * torch.exp(torch.arange(n, device=k.device)[:, None] * fading)
            last = last + old * torch.exp(n * fading)
        return out[0] / out[1], (last[0] / last[1], top + last[1].log())

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        old, mean, weight = state or (torch.zeros_like(x), torch.zeros_like(x), torch.full_like(x, -torch.inf))
        r, k, v = self._project(x, old)
        out, _ = joined(mean, weight, v, k + self.bonus)
        mean, weight = joined(mean, weight - self.decay.exp(), v, k)
        return self.o(torch.sigmoid(r) * out), (x, mean, weight)


def joined(mean: Tensor, weight: Tensor, v: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of all, and the logarithm of its weight, of a mean and one value more, by the logarithms of their weights."""
    total = torch.logaddexp(weight, k)
    return torch.exp(weight - total) * mean + torch.exp(k - total) * v, total


class ChannelMixing(nn.Module):
    """relu squared between two matrices, with a gate; state: the token before."""

    def __init__(self, d: int, f: int):
        super().__init__()
        self.up, self.down, self.r = (nn.Linear(*sizes, bias=False) for sizes in ((d, f), (f, d), (d, d)))
        self.mix_k, self.mix_r = nn.Parameter(shares(d)), nn.Parameter(shares(d))

    def forward(self, x: Tensor) -> Tensor:
        return self._mix(x, F.pad(x, (0, 0, 1, -1)))

    def step(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        return self._mix(x, torch.zeros_like(x) if state is None else state), x

    def _mix(self, x: Tensor, old: Tensor) -> Tensor:
        hidden = F.relu(self.up(torch.lerp(old, x, self.mix_k))).square()
        return torch.sigmoid(self.r(torch.lerp(old, x, self.mix_r))) * self.down(hidden)
