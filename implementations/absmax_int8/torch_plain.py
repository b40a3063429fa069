"""The int8 product in whole numbers: codes are kept in int8, and sums in int32."""

import torch
from torch import Tensor

devices = ("cpu",)  # torch multiplies matrices of int32 on CPU only
gradients = False  # codes are constant almost everywhere
deterministic = True
grows = {"time": "N", "memory": "N"}


def prepare(case):
    def run(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        (x_code, x_top), (w_code, w_top) = quantized(x), quantized(w)
        sums = x_code.int() @ w_code.int().mT
        out = sums.float() * (x_top / 127) * (w_top / 127).mT
        return out.to(case.dtype), x_code.to(case.dtype), w_code.to(case.dtype)

    return run


def quantized(x: Tensor) -> tuple[Tensor, Tensor]:
    """int8 codes of each row, and its largest magnitude in float32."""
    wide = x.float()
    top = wide.abs().amax(-1, keepdim=True)
    return torch.round(wide * (127 / top.clamp(min=torch.finfo(torch.float32).tiny))).to(torch.int8), top
