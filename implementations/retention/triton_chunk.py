"""Retention in chunks in Triton, forward and backward: a state from chunk to chunk, then all chunks at once (eq. 7).

States are recomputed in the backward pass. Decays are between 0 and 1; powers of them are taken relative to the edges of a
chunk, as exp2 of a multiple of the logarithm, which torch takes (the one of the graphics card is coarse near 1).
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

    def run(q: Tensor, k: Tensor, v: Tensor, past: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
        # Finite for a decay of 0, so that its power 0 is 1.
        return Retention.apply(q, k, v, past, torch.log2(decay).clamp(min=-1000.0), chunk)

    return run


class Retention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, past, log_decay, chunk):
        states, state, _, _ = carried(k, v, past, chunk, log_decay)
        ctx.save_for_backward(q, k, v, past, log_decay)
        ctx.chunk = chunk
        return mixed(q, k, v, states, chunk, "out", log_decay), state

    @staticmethod
    @once_differentiable
    def backward(ctx, d_out, d_state):
        q, k, v, past, log_decay = ctx.saved_tensors
        chunk, d_q, d_k, d_v = ctx.chunk, None, None, None
        if ctx.needs_input_grad[0]:
            states, *_ = carried(k, v, past, chunk, log_decay)
            d_q = mixed(d_out, v, k, states.mT, chunk, "d_q", log_decay)
        behind, d_past, _, _ = carried(q, d_out, d_state, chunk, log_decay, backwards=True)
        if ctx.needs_input_grad[1]:
            d_k = mixed(v, d_out, q, behind.mT, chunk, "d_k", log_decay)
        if ctx.needs_input_grad[2]:
            d_v = mixed(k, q, d_out, behind, chunk, "d_v", log_decay)
        return d_q, d_k, d_v, d_past, None, None
