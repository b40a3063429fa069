"""AFT by matrix products: exp(bias) times exp(k) v, all channels of all rows at once; running sums where there is no bias.

Channels whose exponents lie so far apart that a factor would vanish get a softmax for each query instead.
"""

import torch
from torch import Tensor

devices = ("cpu", "cuda")
gradients = True
deterministic = True
grows = {"time": "N^2", "step": "N", "memory": "N^2", "state": "N"}

# How far a row of the bias and the keys of a channel may span together: e^-80, their smallest product, is normal in float32.
SPAN = 80.0


def prepare(case):
    query = torch.arange(case.m - case.n, case.m, device=case.device)[:, None]

    def run(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        k, v = (x.float().movedim(1, 0).flatten(1) for x in (k, v))  # [m c]: a column for each channel of each row
        if bias is not None:
            mean = split(k, v, masked(bias.float()))
        elif case.causal:
            mean = split(k, v, None)
        else:
            mean = (k.softmax(0) * v).sum(0).expand(case.n, -1)
        return (torch.sigmoid(q.float()) * mean.unflatten(1, (case.b, case.d)).movedim(1, 0)).to(case.dtype)

    def masked(bias: Tensor) -> Tensor:
        """The bias that is added to keys, -inf at those that are not seen [n m]."""
        distance = query - torch.arange(case.m, device=bias.device)
        if case.window:
            bias = bias.masked_fill(distance.abs() >= case.window, 0.0)
        return bias.masked_fill(distance < 0, -torch.inf) if case.causal else bias

    def split(k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        """The mean of values [n c] by sums, but exactly in channels that span too much for these. Without a bias: causal."""
        far = (span(k, 0) + (0.0 if bias is None else span(bias, 1).amax()) <= SPAN).logical_not()
        if not far.any():
            return by_sums(k, v, bias)
        if bias is None:
            bias = masked(torch.zeros(case.n, case.m, device=k.device))
        if far.all():
            return by_softmax(k, v, bias)
        order = far.int().argsort(stable=True)
        near, wide = order.tensor_split([far.numel() - int(far.sum())])
        parts = by_sums(k[:, near], v[:, near], bias), by_softmax(k[:, wide], v[:, wide], bias)
        return torch.cat(parts, 1)[:, order.argsort()]

    def by_sums(k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
        heard = torch.exp(k - k.amax(0).detach())
        sums = torch.cat([heard * v, heard], 1)
        sums = sums.cumsum(0)[case.m - case.n :] if bias is None else weights(bias) @ sums
        numerator, denominator = sums.chunk(2, 1)
        return numerator / denominator

    return run


def weights(bias: Tensor) -> Tensor:
    """Relative to the largest of each row."""
    return torch.exp(bias - bias.amax(1, keepdim=True).detach())


def span(exponent: Tensor, dim: int) -> Tensor:
    """How far apart the exponents of keys that are seen lie."""
    exponent = exponent.detach()
    return exponent.amax(dim) - exponent.masked_fill(exponent == -torch.inf, torch.inf).amin(dim)


def by_softmax(k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    return ((k.T.unsqueeze(1) + bias).softmax(-1) @ v.T.unsqueeze(-1)).squeeze(-1).T  # [c n m] by [c m 1]
