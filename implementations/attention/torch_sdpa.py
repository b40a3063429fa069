"""torch's scaled_dot_product_attention, whichever kernel torch picks; a mask is given only where its own flags do not say it."""

import torch
import torch.nn.functional as F
from torch import Tensor

from harness import Unsupported

devices = ("cpu", "cuda")
gradients = True


def prepare(case):
    seen = visible(case)
    # torch aligns `is_causal` upper left, which is lower right only where n = m.
    square = case.visibility == "causal" and case.n == case.m
    all_seen = bool(seen.all())

    def run(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        if bias is not None:
            mask = torch.where(seen, bias, -torch.inf)[None]
        else:
            mask = None if all_seen or square else seen
        causal = square and mask is None
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=case.h != case.g)

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
