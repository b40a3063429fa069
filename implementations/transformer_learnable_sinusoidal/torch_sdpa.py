"""A transformer with learned sinusoids through a learned network as positions, on torch's scaled_dot_product_attention."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from harness.nn.attention import CausalAttention
from harness.nn.decoder import Decoder

devices = ("cpu", "cuda")
dtypes = ("float32",)
gradients = True

FREQUENCIES = 16


def prepare(case):
    positions = SinusoidNetwork(case.d)
    return Decoder(case.v, case.d, case.l, case.f, lambda layer: CausalAttention(case.d, case.h), positions)


class SinusoidNetwork(nn.Module):
    """Rows [n d] for the positions from `start` to `stop`: sines and cosines of learned frequencies, then two layers."""

    def __init__(self, d: int):
        super().__init__()
        self.frequency = nn.Parameter(torch.empty(FREQUENCIES))
        self.up = nn.Linear(2 * FREQUENCIES, d)
        self.down = nn.Linear(d, d)

    def start(self) -> None:
        """Frequencies of a sinusoidal encoding; layers as other matrices, the last so that rows are as long as embeddings."""
        with torch.no_grad():
            self.frequency.copy_(10000.0 ** -(torch.arange(FREQUENCIES) / FREQUENCIES))
        nn.init.normal_(self.up.weight, std=self.up.in_features**-0.5)
        nn.init.normal_(self.down.weight, std=0.1 * self.down.in_features**-0.5)

    def forward(self, start: int, stop: int) -> Tensor:
        angle = torch.arange(start, stop, device=self.frequency.device)[:, None] * self.frequency
        features = torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)
        return self.down(F.gelu(self.up(features)))
