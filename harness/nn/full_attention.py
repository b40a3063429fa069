"""Attention from every row to every row, with rotary positions or none, for encoders that run the blocks of the decoder."""

import torch
from torch import Tensor
from torch.nn import functional as F

from harness.nn.attention import CausalAttention
from harness.nn.rotary import angles_at, turn


class FullAttention(CausalAttention):
    """Attention of `h` heads among all rows given, which stand in no order; it has no steps."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v)


class FullRotaryAttention(FullAttention):
    """The same with queries and keys turned by their place in the rows given."""

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        angles = angles_at(torch.arange(q.shape[2], device=q.device), q.shape[-1])
        return super().attend(turn(q, angles), turn(k, angles), v)
