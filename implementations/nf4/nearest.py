"""NF4 by its definition: the value at the least distance is searched for each weight, and the product is a float32 one."""

import torch
from torch import Tensor

devices = ("cpu", "cuda")
gradients = True
deterministic = True
grows = {"time": "N", "memory": "N"}

BELOW = (
    1.0,
    0.6961928009986877,
    0.5250730514526367,
    0.39491748809814453,
    0.28444138169288635,
    0.18477343022823334,
    0.09105003625154495,
)
ABOVE = (
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
)


def prepare(case):
    values = torch.tensor([*(-v for v in BELOW), 0.0, *ABOVE, 0.7229568362236023, 1.0], device=case.device)
    second = torch.tensor(sorted(dynamic()), device=case.device)

    def run(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        codes, back = [], []
        parts = w.flatten().split(case.block)
        magnitudes = torch.stack([part.abs().max() for part in parts])
        kept = coarse(magnitudes, second) if case.double else magnitudes
        for part, magnitude, factor in zip(parts, magnitudes, kept, strict=True):
            code = search(part, magnitude, values)
            codes.append(code)
            back.append(values[code] * factor)
        dequantized = torch.cat(back).view_as(w)
        out = x.float() @ dequantized.mT
        return out.to(case.dtype), torch.cat(codes).view_as(w).to(case.dtype), dequantized.to(case.dtype)

    return run


def search(x: Tensor, magnitude: Tensor, values: Tensor) -> Tensor:
    """The number of the value nearest to each x / magnitude."""
    scaled = torch.nan_to_num(x / magnitude)
    return (scaled[:, None] - values).abs().argmin(1)


def coarse(magnitudes: Tensor, values: Tensor) -> Tensor:
    """Magnitudes less their mean, in blocks of 256, to the nearest of 256 values."""
    mean = magnitudes.mean()
    return torch.cat([values[search(p, p.abs().max(), values)] * p.abs().max() for p in (magnitudes - mean).split(256)]) + mean


def dynamic() -> list[float]:
    """Every positive value is a decade, and an odd number of half bins within it."""
    positive = [10.0 ** (i - 6) * (0.1 + 0.9 * odd / 2 ** (i + 1)) for i in range(7) for odd in range(1, 2 ** (i + 1), 2)]
    return [*positive, *(-value for value in positive), 0.0, 1.0]
