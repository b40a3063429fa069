"""Position interpolation as a table of complex numbers: slowed frequencies, one turn for each position, made in advance."""

import torch
from torch import Tensor

devices = ("cpu", "cuda")
gradients = True
deterministic = True
grows = {"time": "N", "memory": "N"}


def prepare(case):
    frequency = case.base ** (torch.arange(0, case.d, 2, device=case.device, dtype=torch.float64) / -case.d)
    angle = torch.outer(torch.arange(case.far, device=case.device), frequency / case.factor)
    table = torch.polar(torch.ones_like(angle), angle).to(torch.complex64)

    def run(x: Tensor, position: Tensor) -> Tensor:
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * table[position]).flatten(-2).to(case.dtype)

    return run
