"""Causal softmax attention for the decoder; a kind of attention changes how heads attend, and has the rest from here."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class CausalAttention(nn.Module):
    """Attention of `h` heads that knows no position of its own; state: the keys and values so far.

    A kind of its own changes both of
        attend(q, k, v) -> out                               of each head, [b h n e], causal
        attend_last(q, k, v, state) -> (out, state)          of one token, [b h 1 e], after those in the state
    """

    def __init__(self, d: int, h: int):
        super().__init__()
        self.h = h
        self.q, self.k, self.v, self.o = (nn.Linear(d, d, bias=False) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (w(x).unflatten(-1, (self.h, -1)).transpose(1, 2) for w in (self.q, self.k, self.v))
        return self.o(self.attend(q, k, v).transpose(1, 2).flatten(-2))

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        q, k, v = (w(x).unflatten(-1, (self.h, 1, -1)) for w in (self.q, self.k, self.v))
        out, state = self.attend_last(q, k, v, state)
        return self.o(out.flatten(1)), state

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    def attend_last(self, q: Tensor, k: Tensor, v: Tensor, state: Any) -> tuple[Tensor, Any]:
        k, v = appended(state, k, v)
        return F.scaled_dot_product_attention(q, k, v), (k, v)


def appended(state: tuple[Tensor, Tensor] | None, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Keys and values [b h m e] of the state, then those of one token more."""
    return (k, v) if state is None else (torch.cat([state[0], k], 2), torch.cat([state[1], v], 2))
