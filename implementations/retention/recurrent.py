"""Retention in its recurrent form: one token after another, with a state in float32 (eq. 6)."""

import torch
from torch import Tensor

devices = ("cpu", "cuda")
gradients = True
deterministic = True
grows = {"time": "N", "step": "1", "memory": "N", "state": "1"}


def prepare(case):
    def run(q: Tensor, k: Tensor, v: Tensor, past: Tensor, decay: Tensor) -> tuple[Tensor, Tensor]:
        # A row for each query, a column for each key, a row for each value: [n b h 1 d], [n b h d 1], [n b h 1 e].
        rows, columns, values = (x.float().movedim(2, 0) for x in (q.unsqueeze(-2), k.unsqueeze(-1), v.unsqueeze(-2)))
        state, decay, out = past.float(), decay[:, None, None], []
        for row, column, value in zip(rows, columns, values, strict=True):
            state = decay * state + column * value
            out.append(row @ state)
        return torch.cat(out, dim=-2).to(case.dtype), state.to(case.dtype)

    return run
