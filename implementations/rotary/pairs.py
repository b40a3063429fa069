"""Rotary embedding in real arithmetic: each pair of neighbours times its cosine and sine."""

import torch
from torch import Tensor

devices = ("cpu", "cuda")
gradients = True
deterministic = True
grows = {"time": "N", "memory": "N"}


def prepare(case):
    frequency = case.base ** (torch.arange(0, case.d, 2, device=case.device) / -case.d)

    def run(x: Tensor, position: Tensor) -> Tensor:
        angle = position[:, None] * frequency
        cos, sin = angle.cos(), angle.sin()
        even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2).to(case.dtype)

    return run
