"""StreamingLLM: positions within a rolling cache, in blocks as long as its window, on scaled_dot_product_attention."""

import torch
from torch import Tensor

from harness.nn.decoder import Decoder
from harness.nn.rolling import RollingAttention

devices = ("cpu", "cuda")
dtypes = ("float32",)
gradients = True
weights_of = "transformer_rope/torch_sdpa"
variants = {"four_sinks": {"options": {"sinks": 4}}, "no_sinks": {"options": {"sinks": 0}}}


def prepare(case, **in_suites):
    return Decoder(case.v, case.d, case.l, case.f, lambda layer: CacheAttention(case.d, case.h, case.t, case.sinks))


class CacheAttention(RollingAttention):
    """Sinks stand at their places in the cache, the newest token at its last."""

    def __init__(self, d: int, h: int, size: int, sinks: int):
        super().__init__(d, h, size - sinks, sinks)
        self.size = size

    def far(self, query: Tensor) -> Tensor:
        return query.clamp(max=self.size - 1)

    @property
    def sink_places(self) -> Tensor:
        return torch.arange(self.sinks)
