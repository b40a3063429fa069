"""flash-linear-attention's chunk_linear_attn, not normalised, with a column of ones beside the values for the denominators.

Its own normalisation adds 1e-10 to the denominators and sums keys in the dtype of the inputs, which is not the contract.
Written from the source of fla-core 0.6.0; its kernels were run in Triton's interpreter, never on a GPU.
"""

import torch
from fla.ops.linear_attn import chunk_linear_attn
from torch import Tensor
from torch.nn import functional as F

requires = ("fla",)
devices = ("cuda",)
dtypes = ("float16", "bfloat16")  # its products of float32 are TF32
gradients = True
grows = {"time": "N", "step": "1", "memory": "N", "state": "1"}


def prepare(case):
    # It keeps scores, numerators and denominators in the dtype of its inputs, and float16 does not hold the small ones.
    working = torch.float32 if case.dtype == torch.float16 else case.dtype
    # Of 16-bit inputs with odd widths it refuses the gradient.
    odd_d, odd_e = case.d % 2, (case.e + 1) % 2

    def run(q: Tensor, k: Tensor, v: Tensor, past: Tensor, past_sum: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k = (F.pad((F.elu(x.transpose(1, 2).float()) + 1).to(working), (0, odd_d)) for x in (q, k))  # [b n h d]
        v = F.pad(F.pad(v.transpose(1, 2).to(working), (0, 1), value=1.0), (0, odd_e))
        past = F.pad(torch.cat([past.float(), past_sum.float().unsqueeze(-1)], dim=-1), (0, odd_e, 0, odd_d))
        out, state = chunk_linear_attn(q, k, v, scale=1.0, initial_state=past, output_final_state=True, normalize=False)
        out = out[..., : case.e].float() / out[..., case.e, None].float()
        state = state[:, :, : case.d].to(case.dtype)
        return out.to(case.dtype).transpose(1, 2), state[..., : case.e], state[..., case.e]

    return run
