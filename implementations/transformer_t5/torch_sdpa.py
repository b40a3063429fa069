"""A transformer with T5's relative position bias, on torch's scaled_dot_product_attention."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.nn.attention import CausalAttention, appended
from harness.nn.decoder import Decoder

devices = ("cpu", "cuda")
dtypes = ("float32",)
gradients = True

BUCKETS, EXACT, FARTHEST = 32, 16, 128


def prepare(case):
    bias = DistanceBias(case.d, case.h)  # the same in all layers
    return Decoder(case.v, case.d, case.l, case.f, lambda layer: BucketedAttention(case.d, case.h, bias, layer == 0))


class DistanceBias(nn.Module):
    """A learned number for each head and bucket of distances."""

    def __init__(self, d: int, h: int):
        super().__init__()
        self.d = d
        self.weight = nn.Parameter(torch.empty(BUCKETS, h))

    def start(self) -> None:
        nn.init.normal_(self.weight, std=self.d**-0.5)

    def of_last(self, m: int) -> Tensor:
        """What the last of m queries adds to its scores [h m]."""
        return self.weight[buckets(torch.arange(m - 1, -1, -1, device=self.weight.device))].mT

    def of_all(self, n: int) -> Tensor:
        """The same for each of n queries [h n n], minus infinity for keys that lie ahead."""
        row = self.of_last(n)
        falling = torch.cat([row, torch.full_like(row[:, 1:], -torch.inf)], 1)
        return falling.unfold(1, n, 1).flip(1)  # each row of the matrix is the one above, moved one to the right


class BucketedAttention(CausalAttention):
    """Causal attention with a learned bias for each bucket of distances, its scores not scaled."""

    def __init__(self, d: int, h: int, bias: DistanceBias, owner: bool):
        super().__init__(d, h)
        self.shared = (bias,)  # in a tuple it is no part of this layer: it belongs to the first
        if owner:
            self.bias = bias

    def start(self) -> None:
        """As in T5, queries are at first as much smaller as scores are scaled elsewhere."""
        nn.init.normal_(self.q.weight, std=(self.q.in_features**2 / self.h) ** -0.5)

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=self.shared[0].of_all(q.shape[2])[None], scale=1.0)

    def attend_last(self, q: Tensor, k: Tensor, v: Tensor, state: Any) -> tuple[Tensor, Any]:
        k, v = appended(state, k, v)
        bias = self.shared[0].of_last(k.shape[2])[None, :, None]
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=1.0), (k, v)


def buckets(distance: Tensor) -> Tensor:
    """The first 16 distances have a bucket each, those from 16 to 128 share the others by their logarithm, the rest the last."""
    ratio = (distance.double().clamp(min=EXACT) / EXACT).log() / math.log(FARTHEST / EXACT)
    shared = EXACT + (ratio * (BUCKETS - EXACT)).long()
    return torch.where(distance < EXACT, distance, shared.clamp(max=BUCKETS - 1))
