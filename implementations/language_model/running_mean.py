"""A mixer of one's own in the shared skeleton: each position gets the mean of what came so far, gated. A humble start."""

import torch
from torch import Tensor, nn

from harness.nn.decoder import Decoder

devices = ("cpu", "cuda")
dtypes = ("float32",)


def prepare(case):
    return Decoder(case.v, case.d, case.l, case.f, lambda layer: RunningMean(case.d))


class RunningMean(nn.Module):
    """x[b n d] -> y[b n d]; state of the step form: the sum of the values so far [b d], and how many they were."""

    def __init__(self, d: int):
        super().__init__()
        self.v, self.gate, self.o = (nn.Linear(d, d, bias=False) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        count = torch.arange(1, x.shape[1] + 1, device=x.device, dtype=x.dtype)
        return self.o(self.gate(x).sigmoid() * self.v(x).cumsum(1) / count[:, None])

    def step(self, x: Tensor, state: tuple[Tensor, int] | None) -> tuple[Tensor, tuple[Tensor, int]]:
        total, count = state or (torch.zeros_like(x), 0)
        total, count = total + self.v(x), count + 1
        return self.o(self.gate(x).sigmoid() * total / count), (total, count)
