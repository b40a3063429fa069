"""FlashAttention-2 (Dao 2023, arXiv:2307.08691) in Triton, by the kernels of `harness.nn.flash_kernels`."""

import torch
from torch import Tensor

from harness import Unsupported
from harness.nn import flash_kernels

requires = ("triton",)
devices = ("cpu", "cuda")
gradients = True
deterministic = True
grows = {"time": "N^2", "step": "N", "memory": "N", "state": "N"}
compiles = {
    "width_64": {"n": 512, "m": 512, "d": 64, "e": 64, "visibility": "causal"},
    "width_64_biased": {"n": 512, "m": 512, "d": 64, "e": 64, "visibility": "causal", "bias": True},
    "width_128": {"n": 512, "m": 512, "d": 128, "e": 128, "visibility": "causal"},
    "width_128_biased": {"n": 512, "m": 512, "d": 128, "e": 128, "visibility": "causal", "bias": True},
    "width_256": {"n": 512, "m": 512, "d": 256, "e": 256, "visibility": "causal"},
    "width_256_biased": {"n": 512, "m": 512, "d": 256, "e": 256, "visibility": "causal", "bias": True},
}

WIDEST = 256
LONGEST_INTERPRETED = 2**16


def prepare(case):
    if case.device == "cpu" and not flash_kernels.INTERPRETED:
        raise Unsupported("on the CPU it is interpreted only: needs TRITON_INTERPRET=1 set before triton is imported")
    if max(case.d, case.e) > WIDEST:
        raise Unsupported(f"takes widths up to {WIDEST}")
    if flash_kernels.INTERPRETED and case.m > LONGEST_INTERPRETED:
        raise Unsupported(f"interpreted, {case.m} keys take minutes; on a GPU it takes them")
    sight = reach(case)

    def run(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None = None,
        slopes: Tensor | None = None,
        blocks: Tensor | None = None,
        documents: Tensor | None = None,
    ) -> Tensor:
        starts = ends = None
        if documents is not None:
            # Documents ascend, each in one piece: where that of each place starts, and where it ends.
            documents = documents.contiguous()
            starts, ends = (torch.searchsorted(documents, documents, out_int32=True, right=right) for right in (False, True))
        slopes = None if slopes is None else slopes.contiguous()
        blocks = None if blocks is None else blocks.to(torch.int8).contiguous()
        return flash_kernels.attention(sight, q, k, v, bias, slopes, blocks, starts, ends)

    return run


def reach(case) -> dict:
    """What a case lets be seen."""
    known = {
        "full": {},
        "causal": {"causal": True},
        "prefix": {"causal": True, "prefix": case.prefix},
        "sliding_window": {"causal": True, "window": case.window},
        "lambda": {"causal": True, "window": case.window, "sinks": case.sinks},
    }
    if case.visibility not in known:
        raise Unsupported(f"knows no visibility {case.visibility!r}")
    return flash_kernels.seen(**known[case.visibility], block=case.block)
