"""WKV as a softmax over all earlier tokens, of each channel for itself: quadratic in time, no loop."""

import torch
from torch import Tensor

devices = ("cpu", "cuda")
gradients = True
deterministic = True
grows = {"time": "N^2", "step": "1", "memory": "N^2", "state": "1"}


def prepare(case):
    step = torch.arange(case.n + 1, device=case.device)
    # Row t reads the past, at its first place, and the tokens before t at their age; the last row is the final state, which has
    # no current token.
    read = torch.arange(-1, case.n, device=case.device)
    age = (step[:, None] - 1 - read).clamp(min=0)
    itself = step[:, None] == read
    future = step[:, None] < read

    def run(
        k: Tensor, v: Tensor, decay: Tensor, bonus: Tensor, past_mean: Tensor, past_weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        w, u = -decay.float().exp()[:, None, None], bonus.float()[:, None, None]
        faded = torch.where(itself, u, age * w).masked_fill(future, -torch.inf)  # [d t i], of all rows alike
        keys = torch.cat([past_weight.float().unsqueeze(1), k.float()], dim=1).mT.unsqueeze(2)  # [b d 1 i]
        values = torch.cat([past_mean.float().unsqueeze(1), v.float()], dim=1).mT.unsqueeze(-1)  # [b d i 1]
        score = keys + faded
        mean = (score.softmax(-1) @ values).squeeze(-1).mT
        return mean[:, :-1].to(case.dtype), mean[:, -1].to(case.dtype), score[:, :, -1].logsumexp(-1).to(case.dtype)

    return run
