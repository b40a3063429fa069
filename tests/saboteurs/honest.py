"""What every saboteur pretends to be: an honest rotary embedding."""

import torch


def turn(x, position, base=10000.0):
    angle = position[:, None] * base ** (-torch.arange(0, x.shape[-1], 2, dtype=torch.float64) / x.shape[-1])
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angle), angle).to(torch.complex64)).flatten(-2).to(x.dtype)


def attend(q, k, v):
    """Causal attention of n queries that are the last of m keys."""
    seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).tril(k.shape[2] - q.shape[2])
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=q.shape[1] != k.shape[1])
