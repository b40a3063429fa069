"""Layer normalisation in two passes of float32: the mean first, then the mean of squared distances."""

import torch
from torch import Tensor

devices = ("cpu", "cuda")
gradients = True
deterministic = True
grows = {"time": "N", "memory": "N"}


def prepare(case):
    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        wide = x.float()
        centred = wide - wide.mean(-1, keepdim=True)
        inverse = torch.rsqrt(centred.square().mean(-1, keepdim=True) + case.eps)
        return (centred * inverse * weight.float() + bias.float()).to(case.dtype)

    return run
