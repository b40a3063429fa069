"""LLM.int8() with its features sorted out: outlier columns are multiplied in float32, the others in whole numbers."""

import torch
from torch import Tensor

devices = ("cpu",)  # torch multiplies matrices of int32 on CPU only
gradients = False  # codes are constant almost everywhere
deterministic = True
grows = {"time": "N", "memory": "N"}


def prepare(case):
    def run(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        x, w = x.float(), w.float()
        outlier = (x.abs() >= case.threshold).any(0)
        apart, quiet = outlier.nonzero().squeeze(1), (~outlier).nonzero().squeeze(1)
        top = w.abs().amax(-1, keepdim=True)
        out = x[:, apart] @ w[:, apart].mT
        codes = torch.zeros_like(x)
        if len(quiet):
            x_code, x_top = quantized(x[:, quiet], x[:, quiet].abs().amax(-1, keepdim=True))
            w_code, _ = quantized(w[:, quiet], top)
            out = out + (x_code.int() @ w_code.int().mT).float() * (x_top / 127) * (top / 127).mT
            codes[:, quiet] = x_code.float()
        return out.to(case.dtype), codes.to(case.dtype)

    return run


def quantized(x: Tensor, top: Tensor) -> tuple[Tensor, Tensor]:
    """int8 codes of each row for its largest magnitude, and that magnitude."""
    return torch.round(x * (127 / top.clamp(min=torch.finfo(torch.float32).tiny))).to(torch.int8), top
