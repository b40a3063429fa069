"""Rotary positions for the mixers of the decoder: angles in float64, neighbouring pairs turned."""

import torch
from torch import Tensor


def angles_at(position: Tensor, d: int) -> Tensor:
    """position[n] -> angles[n d/2], float64: at position 10^6 a float32 angle is off by 0.06 rad."""
    return position[:, None] * 10000.0 ** -(torch.arange(0, d, 2, dtype=torch.float64, device=position.device) / d)


def turn(x: Tensor, angles: Tensor) -> Tensor:
    """x[b h n d], its neighbouring pairs turned by angles[n d/2]."""
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)
