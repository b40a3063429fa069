"""An attention free transformer (AFT-conv) in plain torch: near keys by matrix products in blocks, far ones by a running sum."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.nn.attention import CausalAttention
from harness.nn.decoder import Decoder

devices = ("cpu", "cuda")
dtypes = ("float32",)
gradients = True


def prepare(case):
    return Decoder(case.v, case.d, case.l, case.f, lambda layer: AttentionFree(case.d, case.h, case.t))


class Kernel(nn.Module):
    """A learned bias for each group of channels and distance."""

    def __init__(self, h: int, t: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(h, t))


class AttentionFree(CausalAttention):
    """Gated means of values, weighed by exp(key + bias of the distance) in each channel for itself.

    State: the last keys and values, as many as have a bias, and the mean and logarithm of the weight of those before.
    Weights are relative to the largest key of a channel: a token is lost if it sees nothing within e^80 of it.
    """

    def __init__(self, d: int, h: int, t: int):
        super().__init__(d, h)
        self.bias = Kernel(h, t)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, t = q.shape[2], self.bias.weight.shape[1]
        heard = torch.exp(k - k.amax(2, keepdim=True).detach())
        sums = torch.cat([heard * v, heard], -1)  # [b h n 2e]
        out = self._near(sums, min(t, n))
        if n > t:
            out = out + F.pad(sums.cumsum(2), (0, 0, t, -t))
        numerator, denominator = out.chunk(2, -1)
        return torch.sigmoid(q) * numerator / denominator

    def _near(self, sums: Tensor, w: int) -> Tensor:
        """Sums over the keys that have a bias [b h n 2e], in blocks of w that read the block before them too."""
        n, t = sums.shape[2], self.bias.weight.shape[1]
        blocks = F.pad(sums, (0, 0, 0, -n % w)).unflatten(2, (-1, w))
        if blocks.shape[2] > 1:
            blocks = torch.cat([F.pad(blocks, (0, 0, 0, 0, 1, 0))[:, :, :-1], blocks], 3)
        step = torch.arange(blocks.shape[3], device=sums.device)
        distance = step[-w:, None] - step
        weight = self.bias.weight.exp()[:, distance.clamp(0, t - 1)] * ((distance >= 0) & (distance < t))
        return (weight[:, None] @ blocks).flatten(2, 3)[:, :, :n]

    def attend_last(self, q: Tensor, k: Tensor, v: Tensor, state: Any) -> tuple[Tensor, Any]:
        if state is None:
            state = (k[:, :, :0], v[:, :, :0], torch.zeros_like(v), torch.full_like(k, -torch.inf))
        k, v, mean, weight = torch.cat([state[0], k], 2), torch.cat([state[1], v], 2), *state[2:]
        exponent = torch.cat([weight, k + self.bias.weight[:, : k.shape[2]].flip(1)[..., None]], 2)
        out = (exponent.softmax(2) * torch.cat([mean, v], 2)).sum(2, keepdim=True)
        if k.shape[2] == self.bias.weight.shape[1]:
            total = torch.logaddexp(weight, k[:, :, :1])
            mean = torch.exp(weight - total) * mean + torch.exp(k[:, :, :1] - total) * v[:, :, :1]
            k, v, weight = k[:, :, 1:], v[:, :, 1:], total
        return torch.sigmoid(q) * out, (k, v, mean, weight)
