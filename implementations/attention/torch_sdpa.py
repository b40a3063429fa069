"""torch's scaled_dot_product_attention, by each of its back ends; a mask is given only where its own flags do not say it."""

from contextlib import nullcontext

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness import Unsupported

devices = ("cpu", "cuda")
gradients = True
grows = {"time": "N^2", "step": "N", "memory": "N^2", "state": "N"}
# `any` leaves the choice to torch.
variants = {
    "any": {},
    "math": {"backend": "MATH"},
    "flash": {"backend": "FLASH_ATTENTION"},
    "efficient": {"backend": "EFFICIENT_ATTENTION"},
    "cudnn": {"backend": "CUDNN_ATTENTION"},
}


def prepare(case, backend: str = ""):
    if case.device == "cpu" and backend in ("EFFICIENT_ATTENTION", "CUDNN_ATTENTION"):
        raise Unsupported(f"torch has the back end {backend} on CUDA only")
    # torch aligns `is_causal` upper left, which is lower right only where n = m.
    everything = case.visibility == "full" or (case.visibility == "causal" and case.n == 1)
    square = case.visibility == "causal" and case.n == case.m
    by_flag = everything or square
    # A flag and a mask exclude each other: where the mask is needed, it says everything.
    needs_mask = not by_flag or (square and not everything and (case.bias or case.slopes)) or case.blocks or case.documents
    seen = visible(case) if needs_mask else None

    def run(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, slopes: Tensor | None = None, **hiding) -> Tensor:
        mask = hidden_too(seen, case, **hiding)
        if slopes is not None:
            linear = -slopes[:, None, None] * distance(case)
            bias = linear if bias is None else bias + linear
        if bias is not None:
            mask = (bias if mask is None else torch.where(mask, bias, -torch.inf)).to(q.dtype)
        if mask is not None:
            mask = mask.expand(case.b, case.h, case.n, case.m)
        options = {"attn_mask": mask, "is_causal": square and not everything and mask is None, "enable_gqa": case.h != case.g}
        try:
            with sdpa_kernel(getattr(SDPBackend, backend)) if backend else nullcontext():
                return F.scaled_dot_product_attention(q, k, v, **options)
        except RuntimeError as error:
            if backend and "No available kernel" in str(error):
                raise Unsupported(f"torch's back end {backend} does not take this case") from None
            raise

    return run


def distance(case) -> Tensor:
    """How far each key is from each query, [n m]."""
    first = case.m - case.n
    return (torch.arange(first, case.m, device=case.device)[:, None] - torch.arange(case.m, device=case.device)).abs()


def visible(case) -> Tensor:
    """Which of m keys each of n queries sees, [n m]: a lower triangle through the lower right corner, and less or more."""
    last = case.m - case.n
    everything = torch.ones(case.n, case.m, dtype=torch.bool, device=case.device)
    if case.visibility == "full":
        return everything
    past = everything.tril(last)
    if case.visibility == "causal":
        return past
    if case.visibility == "sliding_window":
        return past.triu(last - case.window + 1)
    if case.visibility == "prefix":
        past[:, : case.prefix] = True
        return past
    if case.visibility == "lambda":
        near = past.triu(last - case.window + 1)
        near[:, : case.sinks] = past[:, : case.sinks]
        return near
    raise Unsupported(f"knows no visibility {case.visibility!r}")


def hidden_too(seen: Tensor | None, case, blocks: Tensor | None = None, documents: Tensor | None = None) -> Tensor | None:
    """What is seen, less what blocks [h p r] and documents [b m] hide: [n m], [h n m] or [b 1 n m]."""
    if blocks is not None:
        whole = torch.ones(case.block, case.block, dtype=blocks.dtype, device=blocks.device)
        seen = seen & (torch.kron(blocks, whole)[:, : case.n, : case.m] > 0)
    if documents is not None:
        if case.n > case.m:
            documents = F.pad(documents, (case.n - case.m, 0), value=-1)
        seen = seen & (documents[:, -case.n :, None] == documents[:, None, -case.m :])[:, None]
    return seen
