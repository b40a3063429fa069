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
grows = {"time": "N^2", "step": "N", "memory": "N^2", "state": "N"}


def prepare(case):
    on_cuda = case.device == "cuda"
    if on_cuda and min(case.d, case.e) < 16:
        raise Unsupported("its CUDA kernel takes widths of 16 and more")
    by_place = visible(case)
    same_for_all = None if case.blocks or case.documents else mask_of(case, by_place)
    attend = torch.compile(flex_attention, dynamic=False) if on_cuda else flex_attention
    # The eager path rounds scores and weights to the dtype of its inputs, the compiled kernel accumulates in float32.
    working = case.dtype if on_cuda else torch.float32
    past = case.m - case.n

    def run(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, slopes: Tensor | None = None, **hiding) -> Tensor:
        def biased(score, batch, head, query, key):
            if bias is not None:
                score = score + bias[head, query, key]
            if slopes is not None:
                score = score - slopes[head] * (query + past - key).abs()
            return score

        modification = None if bias is None and slopes is None else biased
        mask = same_for_all if same_for_all is not None else mask_of(case, hidden_too(case, by_place, **hiding))
        q, k, v = q.to(working), k.to(working), v.to(working)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
            return attend(q, k, v, modification, mask, enable_gqa=case.h != case.g).to(case.dtype)

    return run


def mask_of(case, seen):
    """torch's block mask of a visibility, one for all heads and rows of the batch where it can be."""
    each = (case.b if case.documents else None, case.h if case.blocks else None)
    return create_block_mask(seen, *each, case.n, case.m, device=case.device)


def hidden_too(case, by_place, blocks: Tensor | None = None, documents: Tensor | None = None):
    """A visibility by place, less what blocks [h p r] and documents [b m] hide."""
    past = case.m - case.n

    def seen(batch, head, query, key):
        visible = by_place(batch, head, query, key)
        if blocks is not None:
            visible = visible & (blocks[head, query // case.block, key // case.block] > 0)
        if documents is not None:
            # A query before the first key is of no document; its place must not be looked up from the end.
            place = query + past
            own = documents[batch, place.clamp(min=0)]
            visible = visible & (own == documents[batch, key]) & (place >= 0)
        return visible

    return seen


def visible(case):
    """The visibility of a key to a query as a function of indices; the queries stand at the last n of m places."""
    past, prefix, window, sinks = case.m - case.n, case.prefix, case.window, case.sinks

    def full(batch, head, query, key):
        return key >= 0

    def causal(batch, head, query, key):
        return key <= query + past

    def prefixed(batch, head, query, key):
        return (key <= query + past) | (key < prefix)

    def sliding(batch, head, query, key):
        return (key <= query + past) & (query + past - key < window)

    def with_sinks(batch, head, query, key):
        return (key <= query + past) & ((query + past - key < window) | (key < sinks))

    known = {"full": full, "causal": causal, "prefix": prefixed, "sliding_window": sliding, "lambda": with_sinks}
    if case.visibility not in known:
        raise Unsupported(f"knows no visibility {case.visibility!r}")
    return known[case.visibility]
