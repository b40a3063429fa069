"""Matrix products and a softmax, all in float32, with every score in memory at once."""

import torch
from torch import Tensor

from harness import Unsupported

devices = ("cpu", "cuda")
gradients = True
deterministic = True


def prepare(case):
    hidden = ~visible(case)

    def run(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        # One more axis for the query heads that share a key head.
        q, k, v = q.float().unflatten(1, (case.g, -1)), k.float().unsqueeze(2), v.float().unsqueeze(2)
        score = q @ k.mT * case.d**-0.5
        if bias is not None:
            score = score + bias.float().unflatten(0, (case.g, -1))
        # Filled again after the softmax: a row without keys is NaN there, and its gradient too.
        weight = score.masked_fill(hidden, -torch.inf).softmax(-1).masked_fill(hidden, 0.0)
        return (weight @ v).flatten(1, 2).to(case.dtype)

    return run


def visible(case) -> Tensor:
    """Which of m keys each of n queries sees, [n m]; the queries stand at the last n of m places."""
    query = torch.arange(case.m - case.n, case.m, device=case.device)[:, None]
    key = torch.arange(case.m, device=case.device)
    past = key <= query
    if case.visibility == "full":
        return torch.ones_like(past)
    if case.visibility == "causal":
        return past
    if case.visibility == "prefix":
        return past | (key < case.prefix)
    if case.visibility == "sliding_window":
        return past & (query - key < case.window)
    raise Unsupported(f"knows no visibility {case.visibility!r}")
