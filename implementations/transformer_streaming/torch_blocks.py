"""StreamingLLM: positions within a rolling cache, in blocks as long as its window, on scaled_dot_product_attention."""

import torch

from harness.nn.decoder import Decoder
from harness.nn.rolling import RollingAttention

devices = ("cpu", "cuda")
dtypes = ("float32",)
gradients = True
weights_of = "transformer_rope/torch_sdpa"
variants = {"four_sinks": {"options": {"sinks": 4}}, "no_sinks": {"options": {"sinks": 0}}}


def prepare(case, **in_suites):
    return Decoder(case.v, case.d, case.l, case.f, lambda layer: cache_attention(case.d, case.h, case.t, case.sinks))


def cache_attention(d: int, h: int, size: int, sinks: int) -> RollingAttention:
    """Sinks stand at their places in the cache, the newest token at its last."""
    return RollingAttention(d, h, size - sinks, sinks, far=lambda query: query.clamp(max=size - 1), sink_places=torch.arange)
