"""A transformer with xPos, on torch's fused scaled_dot_product_attention, in blocks of queries."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.nn.attention import CausalAttention, appended
from harness.nn.decoder import Decoder
from harness.nn.rotary import angles_at, turn

devices = ("cpu", "cuda")
dtypes = ("float32",)
gradients = True

# Scale bases in a block of queries: no factor is above 0.2857^-8 = 22,500, however long the sequence.
BLOCK = 8


def prepare(case):
    return Decoder(case.v, case.d, case.l, case.f, lambda layer: FadingAttention(case.d, case.h, case.t / 2))


class FadingAttention(CausalAttention):
    """Causal attention with rotary positions whose scores fade with distance; state: turned keys, not scaled, and values."""

    def __init__(self, d: int, h: int, base: float):
        super().__init__(d, h)
        self.base = base

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        step = torch.arange(q.shape[2], device=q.device)
        angles = angles_at(step, q.shape[-1])
        q, k = turn(q, angles), turn(k, angles)
        size = max(1, int(BLOCK * self.base))
        out = []
        for first in range(0, len(step), size):
            # Factors are 1 at the block's first query, so that those of earlier keys only shrink.
            own, seen = step[first : first + size], step[: first + size]
            scaled_q = q[:, :, own] * self._factors(own - first, q)
            scaled_k = k[:, :, seen] * self._factors(first - seen, k)
            past = seen <= own[:, None]
            out.append(F.scaled_dot_product_attention(scaled_q, scaled_k, v[:, :, seen], attn_mask=past))
        return torch.cat(out, 2)

    def attend_last(self, q: Tensor, k: Tensor, v: Tensor, state: Any) -> tuple[Tensor, Any]:
        position = 0 if state is None else state[0].shape[2]
        angles = angles_at(torch.tensor([position], device=q.device), q.shape[-1])
        k, v = appended(state, turn(k, angles), v)
        age = torch.arange(position, -1, -1, device=q.device)
        return F.scaled_dot_product_attention(turn(q, angles), k * self._factors(age, k), v), (k, v)

    def _factors(self, distance: Tensor, like: Tensor) -> Tensor:
        """distance[n] -> zeta^(distance / base) of each feature [n e], with zeta = (2i/e + 0.4) / 1.4 of its pair."""
        e = like.shape[-1]
        zeta = (torch.arange(0, e, 2, dtype=torch.float64, device=like.device) / e + 0.4) / 1.4
        return (zeta ** (distance.double()[:, None] / self.base)).to(like.dtype).repeat_interleave(2, -1)
