"""ALiBi as a relative position table: the bias of every head at every distance is stored in advance, and looked up."""

import torch
from torch import Tensor

devices = ("cpu", "cuda")
gradients = False  # positions are integers: nothing here has a gradient
deterministic = True
grows = {"time": "N^2", "memory": "N^2"}


def prepare(case):
    # Halfway between two of the first heads' exponents lies one of the rest.
    head = torch.arange(case.h, device=case.device, dtype=torch.float64)
    below = 2 ** (case.h.bit_length() - 1)
    exponent = torch.where(head < below, head + 1, head - below + 0.5) * (8 / below)
    table = (-torch.exp2(-exponent)[:, None] * torch.arange(case.far, device=case.device)).to(case.dtype)

    def run(query: Tensor, key: Tensor) -> Tensor:
        return table[:, (query[:, None] - key).abs()]

    return run
