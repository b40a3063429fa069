"""Sinusoidal encoding computed where it is needed, in float32."""

import torch
from torch import Tensor

devices = ("cpu", "cuda")
gradients = False  # positions are integers: nothing here has a gradient
deterministic = True
grows = {"time": "N", "memory": "N"}


def prepare(case):
    frequency = case.base ** (torch.arange(0, case.d, 2, device=case.device) / -case.d)

    def run(position: Tensor) -> Tensor:
        angle = position[:, None] * frequency
        return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2).to(case.dtype)

    return run
