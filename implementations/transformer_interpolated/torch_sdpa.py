"""The transformer with rotary positions, extended by position interpolation, on torch's scaled_dot_product_attention."""

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
weights_of = "transformer_rope/torch_sdpa"
variants = {
    "by_4": {"options": {"factor": 4.0}},
    "by_16": {"options": {"factor": 16.0}},
    "by_16_fine_tuned": {"options": {"factor": 16.0}, "fine_tuned": True},
}


def prepare(case, **in_suites):
    return Decoder(case.v, case.d, case.l, case.f, lambda layer: InterpolatedAttention(case.d, case.h, case.factor))


class InterpolatedAttention(CausalAttention):
    """Attention whose rotary positions are divided by `factor`; state: the keys, turned, and values so far."""

    def __init__(self, d: int, h: int, factor: float):
        super().__init__(d, h)
        self.factor = factor

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        angles = angles_at(torch.arange(q.shape[2], dtype=torch.float64, device=q.device) / self.factor, q.shape[-1])
        return super().attend(turn(q, angles), turn(k, angles), v)

    def attend_last(self, q: Tensor, k: Tensor, v: Tensor, state: Any) -> tuple[Tensor, Any]:
        position = 0 if state is None else state[0].shape[2]
        angles = angles_at(torch.tensor([position / self.factor], dtype=torch.float64, device=q.device), q.shape[-1])
        k, v = appended(state, turn(k, angles), v)
        return F.scaled_dot_product_attention(turn(q, angles), k, v), (k, v)
