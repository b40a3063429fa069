"""WKV as a softmax over all earlier tokens, of each channel for itself: quadratic in time, no loop."""

import torch
from torch import Tensor

devices = ("cpu", "cuda")
gradients = True
deterministic = True
grows = {"time": "N^2", "step": "1", "memory": "N^2", "state": "1"}


def prepare(case):
    step = torch.arange(case.n + 1, device=case.device)
    # Row t reads the past and the tokens before t at their age; the last row is the final state, which has no current token.
    age = (step[:, None] - 1 - step[None, : case.n]).clamp(min=0)
    itself = step[:, None] == step[None, : case.n]
    future = step[:, None] < step[None, : case.n]

    def run(
        k: Tensor, v: Tensor, decay: Tensor, bonus: Tensor, past_mean: Tensor, past_weight: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        k, v, w, u = k.float(), v.float(), -decay.float().exp(), bonus.float()
        keys, values = k.mT.unsqueeze(2), torch.cat([past_mean.float().unsqueeze(1), v], dim=1)  # [b d 1 i], [b i d]
        tokens = torch.where(itself, u[:, None, None], age * w[:, None, None]) + keys
        past = past_weight.float()[..., None] + step * w[:, None]
        score = torch.cat([past.unsqueeze(-1), tokens.masked_fill(future, -torch.inf)], dim=-1)
        # [b d t i] by [b d i 1]
        mean = (score.softmax(-1) @ values.mT.unsqueeze(-1)).squeeze(-1).mT
        return mean[:, :-1].to(case.dtype), mean[:, -1].to(case.dtype), score[:, :, -1].logsumexp(-1).to(case.dtype)

    return run
