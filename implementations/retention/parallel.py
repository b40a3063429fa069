"""Retention in its parallel form: every pair of tokens at once, weighted by a triangle of decays (eq. 5)."""

import torch
from torch import Tensor

devices = ("cpu", "cuda")
gradients = True
deterministic = True
grows = {"time": "N^2", "step": "1", "memory": "N^2", "state": "1"}


def prepare(case):
    step = torch.arange(case.n, device=case.device)
    distance = step[:, None] - step

    def run(q: Tensor, k: Tensor, v: Tensor, past: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
        q, k, v, past = q.float(), k.float(), v.float(), past.float()
        decay = decay[:, None, None]
        # The exponent is kept from being negative, not the power from being read: decay may be 0.
        triangle = (decay ** distance.clamp(min=0)).masked_fill(distance < 0, 0.0)
        out = (q @ k.mT * triangle) @ v + decay ** (step[:, None] + 1) * (q @ past)
        state = (k * decay ** (case.n - 1 - step[:, None])).mT @ v + decay**case.n * past
        return out.to(case.dtype), state.to(case.dtype)

    return run
