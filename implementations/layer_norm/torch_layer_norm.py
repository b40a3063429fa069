"""torch's own layer_norm, whichever kernel torch picks; on CPU all of it in float32.

Given 16 bits, torch's CPU kernel stores mean and spread and sums the gradients of gain and bias in 16 bits: grade B, or wrong
where the mean is a hundred times the spread.
"""

import torch.nn.functional as F
from torch import Tensor

devices = ("cpu", "cuda")
gradients = True
deterministic = True
grows = {"time": "N", "memory": "N"}


def prepare(case):
    def run(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        if case.device == "cpu":
            x, weight, bias = x.float(), weight.float(), bias.float()
        return F.layer_norm(x, (case.d,), weight, bias, case.eps).to(case.dtype)

    return run
