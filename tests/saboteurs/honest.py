"""What every saboteur pretends to be: an honest rotary embedding."""

import torch


def turn(x, position, base=10000.0):
    angle = position[:, None] * base ** (-torch.arange(0, x.shape[-1], 2, dtype=torch.float64) / x.shape[-1])
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle).to(torch.complex64)).flatten(-2).to(x.dtype)
