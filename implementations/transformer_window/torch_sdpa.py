"""A transformer with a sliding window and rotary positions, on scaled_dot_product_attention in blocks as long as the window."""

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


def prepare(case):
    return Decoder(case.v, case.d, case.l, case.f, lambda layer: WindowAttention(case.d, case.h, case.t // 2))


class WindowAttention(CausalAttention):
    """Attention to the last `window` keys, its own included, turned by their positions; state: position, and those but one."""

    def __init__(self, d: int, h: int, window: int):
        super().__init__(d, h)
        self.window = window

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        n, h = q.shape[2], self.h
        angles = angles_at(torch.arange(n, device=q.device), q.shape[-1])
        q, k = turn(q, angles), turn(k, angles)
        w = min(self.window, n)
        # Blocks [b h m w e] of w queries see their own keys and those of the block before.
        q, k, v = (F.pad(x, (0, 0, 0, -n % w)).unflatten(2, (-1, w)) for x in (q, k, v))
        k, v = (torch.cat([F.pad(x, (0, 0, 0, 0, 1, 0))[:, :, :-1], x], 3) for x in (k, v))
        step = torch.arange(2 * w, device=q.device)
        distance = step[w:, None] - step
        seen = ((distance >= 0) & (distance < self.window)).repeat(h * q.shape[2], 1, 1).unflatten(0, (h, -1))
        seen[:, 0, :, :w] = False  # before the first block there is nothing
        out = F.scaled_dot_product_attention(*(x.flatten(1, 2) for x in (q, k, v)), attn_mask=seen.flatten(0, 1)[None])
        return out.unflatten(1, (h, -1)).flatten(2, 3)[:, :, :n]

    def attend_last(self, q: Tensor, k: Tensor, v: Tensor, state: Any) -> tuple[Tensor, Any]:
        position, past = state or (0, None)
        angles = angles_at(torch.tensor([position], device=q.device), q.shape[-1])
        k, v = appended(past, turn(k, angles), v)
        out = F.scaled_dot_product_attention(turn(q, angles), k, v)
        kept = min(self.window - 1, k.shape[2])
        return out, (position + 1, (k[:, :, k.shape[2] - kept :], v[:, :, v.shape[2] - kept :]))
