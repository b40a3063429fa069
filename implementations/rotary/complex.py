"""Rotary embedding in complex arithmetic: each pair of neighbours is a number, multiplied by one on the unit circle."""

import torch
from torch import Tensor

devices = ("cpu", "cuda")
gradients = True
deterministic = True
grows = {"time": "N", "memory": "N"}


def prepare(case):
    frequency = case.base ** (torch.arange(0, case.d, 2, device=case.device) / -case.d)

    def run(x: Tensor, position: Tensor) -> Tensor:
        turn = torch.polar(torch.ones((), device=case.device), torch.outer(position.float(), frequency))
        pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * turn).flatten(-2).to(case.dtype)

    return run
