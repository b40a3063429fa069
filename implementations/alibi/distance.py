"""ALiBi computed where it is needed: minus slope times distance, in float32."""

import torch
from torch import Tensor

devices = ("cpu", "cuda")
gradients = False  # positions are integers: nothing here has a gradient
deterministic = True
grows = {"time": "N^2", "memory": "N^2"}


def prepare(case):
    slope = torch.tensor(slopes(case.h), dtype=torch.float32, device=case.device)

    def run(query: Tensor, key: Tensor) -> Tensor:
        distance = (query[:, None] - key).abs()
        return (-slope[:, None, None] * distance).to(case.dtype)

    return run


def slopes(heads: int) -> list[float]:
    """Powers of 2^(-8 / heads); a number that is no power of two borrows the rest from twice the power of two below."""
    below = 1 << (heads.bit_length() - 1)
    own = [2 ** (-8 * (head + 1) / below) for head in range(below)]
    return own if heads == below else own + slopes(2 * below)[::2][: heads - below]
