"""NF4 as it is stored: two codes in a byte, float32 magnitudes or bytes of their own, and the product with what comes back."""

import torch
import torch.nn.functional as F
from torch import Tensor

devices = ("cpu", "cuda")
gradients = True
deterministic = True
grows = {"time": "N", "memory": "N"}

# To the last bit: quantiles of the normal distribution, computed anew in float64, are off by up to 2e-7.
NORMAL_FLOAT = """
-1.0 -0.6961928009986877 -0.5250730514526367 -0.39491748809814453 -0.28444138169288635 -0.18477343022823334
-0.09105003625154495 0.0 0.07958029955625534 0.16093020141124725 0.24611230194568634 0.33791524171829224
0.44070982933044434 0.5626170039176941 0.7229568362236023 1.0
"""


def prepare(case):
    values = torch.tensor([float(value) for value in NORMAL_FLOAT.split()], device=case.device)
    second = dynamic_map().to(case.device)

    def run(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        packed, magnitude = quantized(w, case.block, values)
        if case.double:
            magnitude = through_bytes(magnitude, second)
        code = unpacked(packed)[: w.numel()]
        each = magnitude.repeat_interleave(case.block)[: w.numel()]
        dequantized = (values[code] * each).view_as(w).to(case.dtype)
        return F.linear(x, dequantized), code.view_as(w).to(case.dtype), dequantized

    return run


def quantized(w: Tensor, block: int, values: Tensor) -> tuple[Tensor, Tensor]:
    """Bytes of two codes, the first in the high half, and the magnitude of each block."""
    blocks = F.pad(w.flatten(), (0, -w.numel() % block)).view(-1, block)
    magnitude = blocks.abs().amax(1)
    scaled = blocks / magnitude.clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    code = torch.bucketize(scaled.flatten(), (values[1:] + values[:-1]) / 2).to(torch.uint8)
    return code[::2] << 4 | code[1::2], magnitude


def unpacked(packed: Tensor) -> Tensor:
    return torch.stack((packed >> 4, packed & 15), dim=1).flatten().long()


def through_bytes(magnitude: Tensor, values: Tensor) -> Tensor:
    """Magnitudes less their mean, in blocks of 256, as one byte each; and back."""
    mean = magnitude.mean()
    blocks = F.pad(magnitude - mean, (0, -len(magnitude) % 256)).view(-1, 256)
    deviation = blocks.abs().amax(1, keepdim=True)
    scaled = blocks / deviation.clamp(min=torch.finfo(torch.float32).tiny)
    byte = torch.bucketize(scaled, (values[1:] + values[:-1]) / 2).to(torch.uint8)
    return (values[byte.long()] * deviation).flatten()[: len(magnitude)] + mean


def dynamic_map() -> Tensor:
    """The 256 values of a byte: sign, place of the first set bit as a power of ten, and the rest as a fraction of [0.1, 1]."""
    fractions = (torch.linspace(0.1, 1, 2**i + 1, dtype=torch.float64) for i in range(7))
    positive = torch.cat([10.0 ** (i - 6) * (f[1:] + f[:-1]) / 2 for i, f in enumerate(fractions)])
    return torch.cat((positive, -positive, torch.tensor([0.0, 1.0]))).sort().values.float()
