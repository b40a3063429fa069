"""torch's flex_attention: visibility as a block mask, the bias as a score modification; compiled on CUDA, eager on the CPU.

Claims gradients on CUDA alone: torch 2.13 refuses the backward pass on the CPU.
"""

import warnings

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from harness import Unsupported

devices = ("cpu", "cuda")
gradients = ("cuda",)


def prepare(case):
    on_cuda = case.device == "cuda"
    if on_cuda and min(case.d, case.e) < 16:
        raise Unsupported("its CUDA kernel takes widths of 16 and more")
    mask = create_block_mask(visible(case), None, None, case.n, case.m, device=case.device)
    attend = torch.compile(flex_attention, dynamic=False) if on_cuda else flex_attention
    # The eager path rounds scores and weights to the dtype of its inputs, the compiled kernel accumulates in float32.
    working = case.dtype if on_cuda else torch.float32

    def run(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
        def biased(score, batch, head, query, key):
            return score + bias[head, query, key]

        modification = None if bias is None else biased
        q, k, v = q.to(working), k.to(working), v.to(working)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
            return attend(q, k, v, modification, mask, enable_gqa=case.h != case.g).to(case.dtype)

    return run


def visible(case):
    """The visibility of a key to a query as a function of indices; the queries stand at the last n of m places."""
    past, prefix, window = case.m - case.n, case.prefix, case.window

    def full(batch, head, query, key):
        return key >= 0

    def causal(batch, head, query, key):
        return key <= query + past

    def prefixed(batch, head, query, key):
        return (key <= query + past) | (key < prefix)

    def sliding(batch, head, query, key):
        return (key <= query + past) & (query + past - key < window)

    known = {"full": full, "causal": causal, "prefix": prefixed, "sliding_window": sliding}
    if case.visibility not in known:
        raise Unsupported(f"knows no visibility {case.visibility!r}")
    return known[case.visibility]
