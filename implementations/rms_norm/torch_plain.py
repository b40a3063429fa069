"""Root mean square normalisation in float32: the gain multiplies before anything is rounded."""

import torch
from torch import Tensor

devices = ("cpu", "cuda")
gradients = True
deterministic = True
grows = {"time": "N", "memory": "N"}


def prepare(case):
    def run(x: Tensor, weight: Tensor) -> Tensor:
        wide = x.float()
        inverse = torch.rsqrt(wide.square().mean(-1, keepdim=True) + case.eps)
        return (wide * inverse * weight.float()).to(case.dtype)

    return run
