"""torch's scaled_dot_product_attention, whichever kernel torch picks; a mask is given only where its own flags do not say it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import Unsupported

devices = ("cpu", "cuda")
gradients = True


def prepare(case):
    everything = case.visibility == "full" or (case.visibility == "causal" and case.n == 1)
    # torch aligns `is_causal` upper left, which is lower right only where n = m.
    square = case.visibility == "causal" and case.n == case.m
    seen = None if everything or (square and not case.bias) else visible(case)

    def run(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        mask = seen
        if bias is not None:
            mask = (bias if seen is None else torch.where(seen, bias, -torch.inf))[None]
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, is_causal=square and mask is None, enable_gqa=case.h != case.g
        )

    return run


def visible(case) -> Tensor:
    """Which of m keys each of n queries sees, [n m]: a lower triangle through the lower right corner, and less or more."""
    last = case.m - case.n
    everything = torch.ones(case.n, case.m, dtype=torch.bool, device=case.device)
    if case.visibility == "full":
        return everything
    if case.visibility == "causal":
        return everything.tril(last)
    if case.visibility == "sliding_window":
        return everything.tril(last).triu(last - case.window + 1)
    if case.visibility == "prefix":
        past = everything.tril(last)
        past[:, : case.prefix] = True
        return past
    raise Unsupported(f"knows no visibility {case.visibility!r}")
