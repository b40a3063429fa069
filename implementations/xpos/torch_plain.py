"""xPos in real arithmetic of float32: queries and keys are rotated, scaled around the first query, and multiplied."""

import torch
from torch import Tensor

devices = ("cpu", "cuda")
gradients = True
deterministic = True
grows = {"time": "N^2", "memory": "N^2"}


def prepare(case):
    even = torch.arange(0, case.d, 2, device=case.device)
    frequency, zeta = 10000.0 ** (-even / case.d), (even / case.d + 0.4) / 1.4

    def turned(x: Tensor, position: Tensor, power: Tensor) -> Tensor:
        angle, scale = position[:, None] * frequency, zeta ** (power[:, None] / case.scale_base)
        cos, sin = angle.cos() * scale, angle.sin() * scale
        even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
        return torch.stack((even * cos - odd * sin, odd * cos + even * sin), dim=-1).flatten(-2)

    def run(q: Tensor, k: Tensor, query: Tensor, key: Tensor) -> Tensor:
        first = query[0]
        return (turned(q, query, query - first) @ turned(k, key, first - key).mT).to(case.dtype)

    return run
