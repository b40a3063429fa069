"""flash-linear-attention's chunked simple_gla, the kernels behind its retention, with the decays given as its gates.

Its `chunk_retention` fixes the decays to 1 - 2^(-5 - head) and scales by d^-1/2; `chunk_simple_gla` takes a logarithm of a
decay for each token and a scale. Written from the source of fla-core 0.6.0; its kernels were run in Triton's interpreter,
never on a GPU.
"""

import torch
from fla.ops.simple_gla import chunk_simple_gla
from torch import Tensor
from torch.nn import functional as F

requires = ("fla",)
devices = ("cuda",)
dtypes = ("float16", "bfloat16")  # its products of float32 are TF32
gradients = True
grows = {"time": "N", "step": "1", "memory": "N", "state": "1"}


def prepare(case):
    # Of 16-bit inputs with odd widths it refuses the gradient.
    odd_d, odd_e = case.d % 2, case.e % 2
    # A decay of 0 has no finite logarithm: in its place the smallest normal number, which is nothing beside the other terms.
    least = torch.finfo(torch.float32).tiny

    def run(q: Tensor, k: Tensor, v: Tensor, past: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
        gates = decay.clamp(min=least).log().expand(case.b, case.n, case.h)
        q, k, v = (F.pad(x.transpose(1, 2), (0, odd)) for x, odd in ((q, odd_d), (k, odd_d), (v, odd_e)))  # [b n h width]
        past = F.pad(past.float(), (0, odd_e, 0, odd_d))
        out, state = chunk_simple_gla(q, k, v, g=gates, scale=1.0, initial_state=past, output_final_state=True)
        return out[..., : case.e].transpose(1, 2), state[:, :, : case.d, : case.e].to(case.dtype)

    return run
