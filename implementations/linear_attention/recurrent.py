"""Linear attention in its recurrent form: one token after another, with both sums in float32 (eq. 18-20)."""

import torch
import torch.nn.functional as F
from torch import Tensor

devices = ("cpu", "cuda")
gradients = True
deterministic = True
grows = {"time": "N", "step": "1", "memory": "N", "state": "1"}


def prepare(case):
    def run(q: Tensor, k: Tensor, v: Tensor, past: Tensor, past_sum: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # A row for each query, a column for each key, a row for each value: [n b h 1 d], [n b h d 1], [n b h 1 e].
        rows, columns, values = (x.float().movedim(2, 0) for x in (q.unsqueeze(-2), k.unsqueeze(-1), v.unsqueeze(-2)))
        state, total, out = past.float(), past_sum.float().unsqueeze(-1), []
        for row, column, value in zip(F.elu(rows) + 1, F.elu(columns) + 1, values, strict=True):
            state, total = state + column * value, total + column
            out.append(row @ state / (row @ total))
        return torch.cat(out, dim=-2).to(case.dtype), state.to(case.dtype), total.squeeze(-1).to(case.dtype)

    return run
