"""Linear attention in chunks in Triton, forward and backward: the kernels of retention at decay 1, and a sum of features.

States and sums are recomputed in the backward pass; kept are the inputs, the outputs and the inverse denominators.
"""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from harness.nn.chunk_kernels import carried, fitting, mixed

requires = ("triton",)
devices = ("cpu", "cuda")
gradients = True
compiles = {"width_128": {"n": 1024, "d": 128, "e": 128}}
deterministic = True
grows = {"time": "N", "step": "1", "memory": "N", "state": "1"}
variants = {"chunk_32": {"chunk": 32}, "chunk_64": {"chunk": 64}}


def prepare(case, chunk: int = 64):
    chunk = fitting(chunk, case.n)

    def run(q: Tensor, k: Tensor, v: Tensor, past: Tensor, past_sum: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return LinearAttention.apply(q, k, v, past, past_sum, chunk)

    return run


class LinearAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, past, past_sum, chunk):
        states, state, sums, state_sum = carried(k, v, past, chunk, start_sum=past_sum)
        inverse = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
        out = mixed(q, k, v, states, chunk, "out", sums=sums, inverse=inverse)
        ctx.save_for_backward(q, k, v, past, past_sum, out, inverse)
        ctx.chunk = chunk
        return out, state, state_sum

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out, d_state, d_state_sum):
        q, k, v, past, past_sum, out, inverse = ctx.saved_tensors
        chunk, d_q, d_k, d_v = ctx.chunk, None, None, None
        side = -(out.float() * d_out.float()).sum(-1)
        if ctx.needs_input_grad[0]:
            states, _, sums, _ = carried(k, v, past, chunk, start_sum=past_sum)
            d_q = mixed(d_out, v, k, states.mT, chunk, "d_q", sums=sums, side=side, inverse=inverse, own=q)
        behind, d_past, sums, d_past_sum = carried(
            q, d_out, d_state, chunk, start_sum=d_state_sum, side=side, inverse=inverse, backwards=True
        )
        if ctx.needs_input_grad[1]:
            d_k = mixed(v, d_out, q, behind.mT, chunk, "d_k", sums=sums, side=side, inverse=inverse, own=k)
        if ctx.needs_input_grad[2]:
            d_v = mixed(k, q, d_out, behind, chunk, "d_v", inverse=inverse)
        return d_q, d_k, d_v, d_past, d_past_sum, None
