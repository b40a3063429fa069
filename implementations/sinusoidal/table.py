"""Sinusoidal encoding as a table: every position's row is made in advance by turning the row before, and looked up."""

import torch
from torch import Tensor

devices = ("cpu", "cuda")
gradients = False  # positions are integers: nothing here has a gradient
deterministic = True
grows = {"time": "N", "memory": "N"}


def prepare(case):
    frequency = case.base ** (torch.arange(0, case.d, 2, device=case.device, dtype=torch.float64) / -case.d)
    step = torch.polar(torch.ones_like(frequency), frequency)
    turns = step.expand(case.far - 1, -1).cumprod(0)
    turns = torch.cat((torch.ones_like(step)[None], turns))
    table = torch.stack((turns.imag, turns.real), dim=-1).flatten(-2).to(case.dtype)

    def run(position: Tensor) -> Tensor:
        return table[position]

    return run
