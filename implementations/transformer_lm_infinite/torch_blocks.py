"""LM-Infinite: a Lambda-shaped mask and a ceiling of distance, on scaled_dot_product_attention in blocks of the window."""

import torch
from torch import Tensor

from harness.nn.decoder import Decoder
from harness.nn.rolling import RollingAttention

devices = ("cpu", "cuda")
dtypes = ("float32",)
gradients = True
weights_of = "transformer_rope/torch_sdpa"


def prepare(case):
    return Decoder(case.v, case.d, case.l, case.f, lambda layer: CeilingAttention(case.d, case.h, case.t, case.sinks))


class CeilingAttention(RollingAttention):
    """Sinks that the window has left all stand `window` away: the query there, they at nought."""

    def far(self, query: Tensor) -> Tensor:
        return torch.full_like(query, self.window)

    @property
    def sink_places(self) -> Tensor:
        return torch.zeros(self.sinks, dtype=torch.long)
