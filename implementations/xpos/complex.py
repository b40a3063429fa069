"""xPos in complex arithmetic: a position is one number per pair, whose length shrinks while it turns.

A score is the real part of the product of a query and a conjugate key.
"""

import torch
from torch import Tensor

devices = ("cpu", "cuda")
gradients = True
deterministic = True
grows = {"time": "N^2", "memory": "N^2"}


def prepare(case):
    even = torch.arange(0, case.d, 2, device=case.device)
    frequency, shrink = 10000.0 ** (even / -case.d), torch.log((even / case.d + 0.4) / 1.4) / case.scale_base

    def turned(x: Tensor, position: Tensor, power: Tensor) -> Tensor:
        turn = torch.polar(torch.exp(torch.outer(power.float(), shrink)), torch.outer(position.float(), frequency))
        return torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous()) * turn

    def run(q: Tensor, k: Tensor, query: Tensor, key: Tensor) -> Tensor:
        middle = torch.cat((query, key)).float().mean().round().long()
        left, right = turned(q, query, query - middle), turned(k, key, middle - key)
        return (left @ right.mH).real.to(case.dtype)

    return run
