"""LM-Infinite: a Lambda-shaped mask and a ceiling of distance, on scaled_dot_product_attention in blocks of the window."""

from functools import partial

import torch

from harness.nn.decoder import Decoder
from harness.nn.rolling import RollingAttention

devices = ("cpu", "cuda")
dtypes = ("float32",)
gradients = True
weights_of = "transformer_rope/torch_sdpa"


def prepare(case):
    return Decoder(case.v, case.d, case.l, case.f, lambda layer: ceiling_attention(case.d, case.h, case.t, case.sinks))


def ceiling_attention(d: int, h: int, window: int, sinks: int) -> RollingAttention:
    """Sinks that the window has left all stand `window` away: the query there, they at nought."""
    return RollingAttention(
        d, h, window, sinks, far=lambda query: torch.full_like(query, window), sink_places=partial(torch.zeros, dtype=torch.long)
    )
